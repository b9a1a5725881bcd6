"""How VMs share a node's pCPUs: pins, whole cores, cells, threads kept apart, weights that hold reservations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.messages import VmId
from proto.machine import Allotment, Priority
from proto.plan import NodeCpus, PlanInputs, VmNeeds, VmPlan
from services.compute.plan_limits import capacity_pct, said, short_pct, usable
from services.compute.plan_moves import improve
from services.compute.plan_policy import make

SMALL = NodeCpus(cells=((0, 1),), cores=((0,), (1,)))
"""two cores of one thread"""
BIG = NodeCpus(
    cells=(tuple(range(16)), tuple(range(16, 32))),
    cores=tuple((n, n + 1) for n in range(0, 32, 2)),
)
"""two cells, eight cores of two threads each"""


def vm(name: str, vcpus: int = 1, priority: Priority = Priority.NORMAL, **wish: object) -> VmNeeds:
    return VmNeeds(vm=VmId(name), generation=1, vcpus=vcpus, priority=priority, allotment=Allotment(**wish))  # type: ignore[arg-type]


def whole(name: str, vcpus: int) -> VmNeeds:
    return vm(name, vcpus, Priority.CRITICAL, cpu_reserved_pct=100 * vcpus)


def planned(cpus: NodeCpus, *vms: VmNeeds, homes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, VmPlan]:
    return {plan.vm: plan for plan in make(PlanInputs(cpus=cpus, vms=vms), homes or {})}


def test_weights_follow_the_class_and_an_own_weight_comes_before() -> None:
    plan = planned(
        SMALL, vm("a", priority=Priority.CRITICAL), vm("b", priority=Priority.IMPORTANT), vm("c"),
        vm("d", priority=Priority.BEST_EFFORT), vm("e", cpu_weight=250),
    )  # fmt: skip
    assert [plan[n].weight for n in "abcde"] == [800, 400, 100, 5, 250]
    assert "weight 250 (its own)" in plan["e"].sentence and "(best-effort)" in plan["d"].sentence


def test_on_a_small_node_all_float() -> None:
    plan = planned(SMALL, vm("a", priority=Priority.CRITICAL), vm("b", cpu_cap_pct=25))
    assert plan["a"].pcpus == plan["b"].pcpus == plan["b"].threads == (0, 1)
    assert not plan["a"].exclusive and not plan["a"].pins
    assert plan["b"].cap_pct == 25 and "at most 25 %" in plan["b"].sentence


def test_a_pinned_critical_vm_has_the_other_threads_kept_away() -> None:
    plan = planned(SMALL, vm("a", priority=Priority.CRITICAL, pins=(1,)), vm("b"))
    assert plan["a"].pins == ((1,),) and plan["a"].threads == plan["b"].threads == (0,)
    assert plan["b"].pcpus == (0, 1)
    both = planned(SMALL, vm("a", 2, Priority.CRITICAL, pins=(0, 1)))
    assert both["a"].threads == (0, 1) and "no pCPU is free of critical vCPUs" in both["a"].sentence


def test_fewer_pins_than_vcpus_are_shared_and_as_many_are_one_each() -> None:
    plan = planned(SMALL, vm("one", 2, pins=(1,)), vm("two", 2, pins=(1, 0)))
    assert plan["one"].pins == () and plan["one"].pcpus == (1,)
    assert plan["two"].pins == ((1,), (0,)) and plan["two"].pcpus == (0, 1)


def test_pins_that_the_node_does_not_have_leave_the_vm_floating_with_a_fault() -> None:
    cpus = NodeCpus(cells=((0, 1, 2, 3),), isolated=(3,))
    plan = planned(cpus, vm("a", pins=(9,)), vm("b", pins=(3,)))
    assert plan["a"].pcpus == plan["b"].pcpus == (0, 1, 2)
    assert "may not run on pCPU 9" in plan["a"].fault and "pCPUs 0-2" in plan["a"].fault
    assert "pCPU 3" in plan["b"].fault


def test_a_critical_vm_that_reserves_all_gets_whole_cores_in_one_cell() -> None:
    plan = planned(BIG, whole("a", 4), vm("b", 8), vm("c", 8))
    a = plan["a"]
    assert a.exclusive and len(a.pins) == 4 and all(len(core) == 2 for core in a.pins)
    assert len({p // 16 for p in a.pcpus}) == 1
    for other in ("b", "c"):
        assert not set(plan[other].pcpus) & set(a.pcpus)
        assert not set(plan[other].threads) & set(a.pcpus)
    assert not set(a.threads) & set(a.pcpus)
    assert "4 whole cores of its own" in a.sentence


def test_whole_cores_are_taken_where_they_leave_the_fewest() -> None:
    """Best fit: a cell that was begun is filled before another is."""
    plan = planned(BIG, whole("a", 5), whole("b", 3))
    assert {p // 16 for p in plan["a"].pcpus} == {p // 16 for p in plan["b"].pcpus}


def test_too_few_cores_and_nodes_that_share_a_host_leave_it_floating_and_say_so() -> None:
    few = planned(SMALL, whole("a", 2))
    assert not few["a"].exclusive and "too few whole cores are free" in few["a"].sentence
    shared = planned(NodeCpus(cells=BIG.cells, cores=BIG.cores, share=3), whole("a", 2))
    assert not shared["a"].exclusive and "3 nodes divide this host" in shared["a"].sentence


def test_one_cell_before_two_and_the_emptier_first() -> None:
    plan = planned(BIG, vm("a", 8), vm("b", 8), vm("wide", 20))
    assert {len({p // 16 for p in plan[n].pcpus}) for n in "ab"} == {1}
    assert plan["a"].pcpus != plan["b"].pcpus
    assert plan["wide"].pcpus == tuple(range(32)) and "no cell has 20 pCPUs" in plan["wide"].sentence


def test_a_home_is_kept_when_others_come_and_go() -> None:
    first = planned(BIG, vm("a", 8), vm("b", 8))
    homes = {name: plan.pcpus for name, plan in first.items()}
    later = planned(BIG, vm("0-new", 12), vm("b", 8), homes=homes)
    assert later["b"].pcpus == first["b"].pcpus
    assert later["0-new"].pcpus == first["a"].pcpus


def test_critical_vms_that_float_leave_a_core_to_the_other_threads() -> None:
    plan = planned(BIG, vm("a", 4, Priority.CRITICAL), vm("b", 4))
    service = set(range(16)) - set(plan["a"].pcpus)
    assert plan["a"].pcpus == tuple(range(2, 16)) and service == {0, 1}
    assert set(plan["a"].threads) == service
    assert not set(plan["b"].threads) & set(plan["a"].pcpus)


def test_a_reservation_raises_the_weight_until_it_holds() -> None:
    vms = (vm("a", 1, Priority.BEST_EFFORT, cpu_reserved_pct=60), *(vm(f"x{n}", 2) for n in range(4)))
    plan = planned(SMALL, *vms)
    others = sum(plan[f"x{n}"].weight for n in range(4))
    got_pct = 200 * plan["a"].weight / (plan["a"].weight + others)
    assert 60 <= got_pct < 62
    assert "raised from 5 to" in plan["a"].sentence


shapes = st.builds(
    vm,
    st.sampled_from([f"v{n}" for n in range(12)]),
    st.integers(1, 8),
    st.sampled_from(list(Priority)),
    cpu_weight=st.sampled_from([0, 0, 50, 1000]),
    cpu_reserved_pct=st.sampled_from([0, 0, 0, 50, 100, 200]),
    pins=st.sampled_from([(), (), (), (3,), (4, 5), (40,)]),
)
hosts = st.sampled_from(
    [SMALL, BIG, NodeCpus(cells=BIG.cells, cores=BIG.cores, share=3), NodeCpus(cells=((0, 1, 2, 3),))]
)


@settings(max_examples=300, deadline=None)
@given(hosts, st.lists(shapes, max_size=10, unique_by=lambda v: v.vm))
def test_every_plan_is_whole(cpus: NodeCpus, vms: list[VmNeeds]) -> None:
    """Nobody runs where it may not; what is exclusive is nobody else's; reservations that fit hold; the same again is the same."""
    vms = [v for v in vms if v.allotment.cpu_reserved_pct <= 100 * v.vcpus]
    plan = planned(cpus, *vms)
    assert set(plan) == {v.vm for v in vms}
    may = set(usable(cpus))
    for v in vms:
        mine = plan[v.vm]
        assert mine.pcpus and mine.threads and set(mine.pcpus) | set(mine.threads) <= may
        assert bool(mine.fault) == bool(set(v.allotment.pins) - may)
        if mine.exclusive:
            assert v.allotment.cpu_reserved_pct >= 100 * v.vcpus and cpus.share == 1
            assert all(not set(mine.pcpus) & set(o.pcpus) for o in plan.values() if o.vm != v.vm)
    assert planned(cpus, *reversed(vms)) == plan
    assert planned(cpus, *vms, homes={n: p.pcpus for n, p in plan.items()}) == plan or len(cpus.cells) > 1


@settings(max_examples=300, deadline=None)
@given(hosts, st.lists(shapes, max_size=10, unique_by=lambda v: v.vm))
def test_reservations_hold_with_all_busy(cpus: NodeCpus, vms: list[VmNeeds]) -> None:
    """Against all that may run where it floats, whenever all that is reserved there fits."""
    vms = [
        replace(v, allotment=replace(v.allotment, pins=()))
        for v in vms
        if v.allotment.cpu_reserved_pct <= 100 * v.vcpus
    ]
    plan = planned(cpus, *vms)
    taken = {p for mine in plan.values() if mine.exclusive for p in mine.pcpus}
    for v in vms:
        mine, reserved = plan[v.vm], v.allotment.cpu_reserved_pct
        inside = [cell for cell in cpus.cells if set(mine.pcpus) <= set(cell)]
        if mine.exclusive or not reserved or mine.weight >= 10_000 or not inside:
            continue
        pool = set(inside[0]) - taken
        rivals = [o for o in plan.values() if set(o.pcpus) & pool]
        room_pct = 100 * len(pool) / cpus.share
        if sum(o.reserved_pct for o in rivals) <= room_pct:
            assert room_pct * mine.weight / sum(o.weight for o in rivals) >= reserved - 1.5


def test_reservations_are_refused_beyond_the_nodes_part() -> None:
    assert capacity_pct(SMALL) == 200 and capacity_pct(NodeCpus(cells=((0, 1),), share=3)) == 66
    assert short_pct(SMALL, 150, 50) == 0 and short_pct(SMALL, 150, 60) == 10
    assert short_pct(SMALL, 300, 0) == 0


@pytest.mark.parametrize(
    ("pcpus", "words"), [((), "pCPUs none"), ((3,), "pCPU 3"), ((0, 1, 2, 8), "pCPUs 0-2, 8"), ((5, 4), "pCPUs 4-5")]
)
def test_pcpus_in_words(pcpus: tuple[int, ...], words: str) -> None:
    assert said(pcpus) == words


def test_a_move_goes_from_a_full_cell_to_one_with_room_and_says_what_is_won() -> None:
    cpus = NodeCpus(cells=((0, 1), (2, 3)))
    homes = dict.fromkeys("abcd", (0, 1))
    plan = planned(cpus, *(vm(name) for name in "abcd"), homes=homes)
    assert {p.pcpus for p in plan.values()} == {(0, 1)}
    move = improve(cpus, plan, dict.fromkeys("abcd", 100.0))
    assert move is not None and move.pcpus == (2, 3) and move.gain_pct == 25.0
    assert "200 % for 400 %" in move.sentence
    assert improve(cpus, plan, dict.fromkeys("abcd", 50.0)) is None
    assert improve(SMALL, planned(SMALL, vm("a")), {"a": 300.0}) is None


def test_moves_come_to_an_end() -> None:
    """Each gains; so no plan comes back."""
    cpus = NodeCpus(cells=((0, 1), (2, 3), (4, 5)))
    vms = [vm(f"v{n}") for n in range(9)]
    demand: dict[str, float] = {v.vm: 100.0 for v in vms}
    plan = planned(cpus, *vms, homes={v.vm: (0, 1) for v in vms})
    gains = []
    while (move := improve(cpus, plan, demand)) is not None:
        gains.append(move.gain_pct)
        homes = {n: p.pcpus for n, p in plan.items()} | {move.vm: move.pcpus}
        plan = planned(cpus, *vms, homes=homes)
        assert len(gains) <= 9
    assert len(gains) == 4 and all(a >= b for a, b in pairwise(gains))


def sized(name: str, vcpus: int, mib: int, **wish: object) -> VmNeeds:
    return replace(vm(name, vcpus, Priority.NORMAL, **wish), memory_mib=mib)


CELLED = replace(BIG, cells_mib=(1000, 1000))


def test_a_cell_takes_a_vm_only_with_its_memory() -> None:
    plan = planned(CELLED, sized("a", 2, 900), sized("b", 8, 50), sized("c", 2, 500), sized("d", 2, 400))
    cells = {name: plan[name].pcpus[0] // 16 for name in "abcd"}
    assert cells["a"] != cells["c"] and cells["d"] == cells["c"], "by vCPUs alone b's cell would be the fuller one"
    wide = planned(CELLED, sized("e", 2, 1001), sized("f", 2, 1001, one_cell=True))
    assert wide["e"].pcpus == tuple(range(32)) and "no cell has" in wide["e"].sentence and not wide["e"].fault
    assert "it is to lie in one cell" in wide["f"].fault


def test_what_lies_in_a_cell_already_stays_there_however_full_it_is() -> None:
    home = {"a": tuple(range(16))}
    assert planned(CELLED, sized("a", 2, 1500), homes=home)["a"].pcpus == home["a"]


def test_whole_cores_come_from_a_cell_with_the_memory() -> None:
    lone = replace(whole("x", 2), memory_mib=600)
    plan = planned(CELLED, replace(whole("w", 2), memory_mib=600), lone)
    assert plan["w"].pcpus[0] // 16 != plan["x"].pcpus[0] // 16


def test_no_vm_is_moved_to_a_cell_that_has_not_its_memory() -> None:
    plans = {n: VmPlan(vm=VmId(n), generation=1, weight=100, pcpus=CELLED.cells[c]) for n, c in (("a", 0), ("b", 0), ("c", 1))}
    demand = {"a": 1500.0, "b": 1400.0, "c": 0.0}
    assert improve(CELLED, plans, demand, {"a": 600, "b": 600, "c": 300}) is not None
    assert improve(CELLED, plans, demand, {"a": 600, "b": 600, "c": 500}) is None


# --- threads of one core, isolated pCPUs, several cells ------------------------------------------------------------------

SMT = NodeCpus(
    cells=(tuple(range(8)), tuple(range(8, 16))),
    cores=tuple((cell + n, cell + n + 4) for cell in (0, 8) for n in range(4)),
    isolated=(3, 7),
)
"""two cells, four cores of two threads each, as most hosts number them; one core of cell 0 is kept apart by the kernel"""


def core_of(cpus: NodeCpus, pcpu: int) -> tuple[int, ...]:
    return next(core for core in cpus.cores if pcpu in core)


def test_siblings_are_not_forced_on_a_vm_that_could_have_cores() -> None:
    """A core for each vCPU, in the one cell that has enough: three of cell 0 are left, four are in cell 1."""
    plan = planned(SMT, whole("a", 4), vm("b", 2))
    cores = [core_of(SMT, pins[0]) for pins in plan["a"].pins]
    assert plan["a"].exclusive and len(set(cores)) == 4 and plan["a"].pcpus == tuple(range(8, 16))
    assert [set(pins) for pins in plan["a"].pins] == [set(core) for core in cores], "the other thread of each is left to nobody"
    assert not set(plan["b"].pcpus) & set(plan["a"].pcpus)


def test_cores_of_two_cells_come_before_siblings() -> None:
    plan = planned(SMT, whole("a", 5))
    cores = {core_of(SMT, pins[0]) for pins in plan["a"].pins}
    assert plan["a"].exclusive and len(cores) == 5 and {core[0] // 8 for core in cores} == {0, 1}


def test_who_cannot_have_cores_floats_over_threads_and_is_told() -> None:
    """Seven cores are left, and one of them stays for all others."""
    plan = planned(SMT, whole("a", 7))
    assert not plan["a"].exclusive and not plan["a"].pins and "too few whole cores are free" in plan["a"].sentence
    assert len(plan["a"].pcpus) >= 7


def test_who_floats_may_use_both_threads_of_more_cores_than_it_has_vcpus() -> None:
    """Its kernel then puts each vCPU on a core that is idle: nothing in the plan keeps two on one."""
    plan = planned(SMT, vm("a", 3, Priority.CRITICAL), vm("b", 3))
    for one in plan.values():
        assert len({core_of(SMT, p) for p in one.pcpus}) >= 3 and not one.pins


def test_a_cell_with_a_core_for_each_vcpu_comes_before_an_emptier_one_of_threads() -> None:
    """Cell 0 has three cores left, with six threads; cell 1 four, and others there already."""
    plan = planned(SMT, vm("a", 8), vm("b", 4))
    assert plan["a"].pcpus == tuple(range(8, 16)), "only there are eight threads"
    assert plan["b"].pcpus == tuple(range(8, 16)), "four cores, though nobody is in the other cell"
    assert planned(SMT, vm("a", 8), vm("b", 3))["b"].pcpus == (0, 1, 2, 4, 5, 6)


def test_no_core_is_set_apart_where_critical_vcpus_would_then_share_one() -> None:
    four = NodeCpus(cells=(tuple(range(8)),), cores=tuple((n, n + 4) for n in range(4)))
    assert planned(four, vm("a", 4, Priority.CRITICAL))["a"].pcpus == tuple(range(8))
    assert planned(four, vm("a", 3, Priority.CRITICAL))["a"].pcpus == (1, 2, 3, 5, 6, 7)


def test_isolated_pcpus_are_nobodys_and_pins_to_them_are_a_fault_with_the_numbers() -> None:
    plan = planned(SMT, vm("a", 2, pins=(2, 3)), vm("b", 20), whole("c", 3))
    assert "VMs may not run on pCPU 3 of this node" in plan["a"].fault and "pCPUs 0-2, 4-6, 8-15" in plan["a"].fault
    for one in plan.values():
        assert not {3, 7} & (set(one.pcpus) | set(one.threads) | {p for pins in one.pins for p in pins})


def test_half_a_core_that_is_isolated_leaves_the_other_half_a_core_of_one_thread() -> None:
    cpus = replace(SMT, isolated=(7,))
    plan = planned(cpus, whole("a", 4), whole("b", 3))
    pins = {pin for one in plan.values() for pin in one.pins}
    assert (3,) in pins or all(3 not in pin for pin in pins)
    assert not any(7 in pin for pin in pins)


smt_hosts = st.builds(
    lambda cells, cores, threads, isolated: NodeCpus(
        cells=tuple(tuple(range(c * cores * threads, (c + 1) * cores * threads)) for c in range(cells)),
        cores=tuple(
            tuple(c * cores * threads + n + t * cores for t in range(threads)) for c in range(cells) for n in range(cores)
        ),
        isolated=tuple(sorted(p for p in isolated if p < cells * cores * threads - 1)),
    ),
    st.integers(1, 3), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.sets(st.integers(0, 20), max_size=4),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(smt_hosts, st.lists(shapes, max_size=8, unique_by=lambda v: v.vm))
def test_no_two_vcpus_of_one_vm_are_pinned_to_one_core_by_a_plan(cpus: NodeCpus, vms: list[VmNeeds]) -> None:
    """Only a person's own pins may do that; and nobody runs on what is isolated."""
    plan = planned(cpus, *(v for v in vms if v.allotment.cpu_reserved_pct <= 100 * v.vcpus))
    for v in vms:
        one = plan.get(v.vm)
        if one is None:
            continue
        assert not set(cpus.isolated) & (set(one.pcpus) | set(one.threads))
        if one.exclusive:
            used = [core_of(cpus, pins[0]) for pins in one.pins]
            assert len(set(used)) == len(used) == v.vcpus
            assert all(set(pins) <= set(core) for pins, core in zip(one.pins, used, strict=True))
        elif not v.allotment.pins or one.fault:
            assert one.pins == ()
            assert len({core_of(cpus, p) for p in one.pcpus}) >= min(v.vcpus, _open_cores(cpus, plan))


def _open_cores(cpus: NodeCpus, plan: Mapping[str, VmPlan]) -> int:
    """Cores that a VM which floats could be given: of the poorest cell, without those that others have for themselves."""
    own = {p for one in plan.values() if one.exclusive for p in one.pcpus}
    free = [{core for core in cpus.cores if set(core) & set(cell) & (set(usable(cpus)) - own)} for cell in cpus.cells]
    return min((len(cores) for cores in free if cores), default=0)
