"""The rebalancer's plan: what must hold of every one, over clusters drawn by chance, and what single rules do."""

from __future__ import annotations

from itertools import groupby
from math import isclose
from statistics import pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.messages import NodeId, VmId
from proto.balance import ClusterLoad, Move, NodeLoad, Plan, Rules, VmLoad, Weights
from proto.machine import Priority
from services.compute.balance.board import Board
from services.compute.balance.plan import plan, worthwhile
from services.compute.balance.search import costs


def node(name: str, **facts: object) -> NodeLoad:
    return NodeLoad(**{"node": NodeId(name), "pcpus": 8.0, "memory_mib": 16_384, "vcpus_max": 64} | facts)  # type: ignore[arg-type]


def vm(name: str, on: str, **facts: object) -> VmLoad:
    return VmLoad(**{"vm": VmId(name), "node": NodeId(on), "vcpus": 2, "memory_mib": 2048} | facts)  # type: ignore[arg-type]


def cluster(nodes: int, *vms: VmLoad, **facts: object) -> ClusterLoad:
    return ClusterLoad(nodes=tuple(node(f"n{n + 1}", **facts) for n in range(nodes)), vms=vms)


# --- what holds of every plan ------------------------------------------------------------------------------------------


@st.composite
def clusters(draw: st.DrawFn) -> ClusterLoad:
    """Up to 6 nodes and 24 VMs, tight and loose, with groups, fixed VMs, needs that not every node meets, memory of others."""
    nodes = [
        node(
            f"n{n}",
            pcpus=draw(st.sampled_from([0.5, 4.0, 8.0])),
            memory_mib=draw(st.sampled_from([4096, 8192, 16_384])),
            vcpus_max=draw(st.sampled_from([16, 64])),
            kept_mib=draw(st.sampled_from([0, 0, 1024])),
            kept_charged_mib=draw(st.sampled_from([0, 0, 1500])),
            pools=draw(st.sampled_from([("default",), ("default", "fast")])),
            cordoned=draw(st.integers(0, 7)) == 7,
        )
        for n in range(draw(st.integers(1, 6)))
    ]
    free = {n.node: [n.memory_mib - n.kept_mib, n.vcpus_max, n.memory_mib - n.kept_charged_mib] for n in nodes}
    apart: dict[str, set[str]] = {n.node: set() for n in nodes}
    homes: dict[str, NodeId] = {}
    vms = []
    for i in range(draw(st.integers(0, 24))):
        one = vm(
            f"v{i}",
            draw(st.sampled_from(nodes)).node,
            vcpus=draw(st.sampled_from([1, 2, 8])),
            memory_mib=draw(st.sampled_from([256, 1024, 3000])),
            charged_mib=draw(st.sampled_from([0, 512, 3500])),
            demand_pcpus=draw(st.floats(0, 4)),
            priority=draw(st.sampled_from(list(Priority))),
            apart=draw(st.sampled_from(["", "", "a", "b"])),
            together=draw(st.sampled_from(["", "", "", "t"])),
            fixed=draw(st.sampled_from(["", "", "", "pinned to pCPUs"])),
            pools=draw(st.sampled_from([(), ("default",), ("fast",)])),
        )
        if one.together:
            one = replace(one, node=homes.setdefault(one.together, one.node))
        here = free[one.node]
        reached = set(one.pools) <= set(next(n.pools for n in nodes if n.node == one.node))
        if here[0] < one.memory_mib or here[1] < one.vcpus or here[2] < one.charged_mib:
            continue
        if not reached or one.apart in apart[one.node]:
            continue
        here[0] -= one.memory_mib
        here[1] -= one.vcpus
        here[2] -= one.charged_mib
        apart[one.node] |= {one.apart} - {""}
        vms.append(one)
    return ClusterLoad(nodes=tuple(nodes), vms=tuple(vms))


rules = st.builds(
    Rules, gain_min=st.sampled_from([0.01, 0.12]), at_once_max=st.integers(1, 4), plan_max=st.integers(1, 20)
)


@settings(max_examples=150, deadline=None)
@given(clusters(), rules)
def test_every_state_on_the_way_is_allowed(load: ClusterLoad, rules: Rules) -> None:
    found = plan(load, rules)
    places = {v.vm: v.node for v in load.vms}
    assert len(found.moves) <= rules.plan_max
    for _, batch in groupby(found.moves, key=lambda move: move.batch):
        moving = list(batch)
        assert len(moving) <= rules.at_once_max or (moving[0].group and len({m.group for m in moving}) == 1)
        both = [(v, places[v.vm]) for v in load.vms]
        both += [(v, move.target) for move in moving for v in load.vms if v.vm == move.vm]
        allowed(load, both)
        for move in moving:
            assert places[move.vm] == move.origin != move.target
            assert not next(n.cordoned for n in load.nodes if n.node == move.target)
            places[move.vm] = move.target
    together(load, places)


def allowed(load: ClusterLoad, on: list[tuple[VmLoad, NodeId]]) -> None:
    """Memory, vCPUs, reach and groups apart of every node, a VM on its way counted on both of its nodes."""
    for n in load.nodes:
        here = [v for v, name in on if name == n.node]
        assert sum(v.memory_mib for v in here) <= n.memory_mib - n.kept_mib
        assert sum(v.charged_mib for v in here) <= n.memory_mib - n.kept_charged_mib
        assert sum(v.vcpus for v in here) <= n.vcpus_max - n.vcpus_kept
        assert all(set(v.pools) <= set(n.pools) for v in here)
        groups = [v.apart for v in here if v.apart]
        assert len(groups) == len(set(groups))


def together(load: ClusterLoad, places: dict[VmId, NodeId]) -> None:
    for name in {v.together for v in load.vms} - {""}:
        assert len({places[v.vm] for v in load.vms if v.together == name}) == 1


@settings(max_examples=150, deadline=None)
@given(clusters(), rules)
def test_every_batch_lowers_the_score_and_the_plan_is_worth_its_moves(load: ClusterLoad, rules: Rules) -> None:
    found = plan(load, rules)
    score = found.score
    for _, batch in groupby(found.moves, key=lambda move: move.batch):
        moving = list(batch)
        assert isclose(moving[0].score_before, score, abs_tol=1e-9)
        assert moving[-1].score_after < score
        assert isclose(sum(m.gain for m in moving), score - moving[-1].score_after, abs_tol=1e-9)
        score = moving[-1].score_after
    assert isclose(found.planned, score, abs_tol=1e-9)
    price = dict(zip((v.vm for v in Board(load, rules).vms), costs(Board(load, rules)), strict=True))
    paid = sum(price[m.vm] for m in found.moves)
    assert not found.moves or found.score - found.planned > paid


@settings(max_examples=100, deadline=None)
@given(clusters(), rules, st.randoms(use_true_random=False))
def test_the_order_of_the_facts_changes_nothing(load: ClusterLoad, rules: Rules, chance: object) -> None:
    nodes, vms = list(load.nodes), list(load.vms)
    chance.shuffle(nodes)  # type: ignore[attr-defined]
    chance.shuffle(vms)  # type: ignore[attr-defined]
    assert plan(load, rules) == plan(ClusterLoad(nodes=tuple(nodes), vms=tuple(vms)), rules)


@settings(max_examples=100, deadline=None)
@given(clusters(), rules)
def test_what_rests_or_is_fixed_stays_and_none_moves_twice(load: ClusterLoad, rules: Rules) -> None:
    resting = {v.vm for v in load.vms[::2]}
    moved = [m.vm for m in plan(load, rules, resting).moves]
    assert not resting & set(moved)
    assert not {v.vm for v in load.vms if v.fixed} & set(moved)
    assert len(moved) == len(set(moved))


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_the_score_is_the_deviations_as_the_textbook_has_them(load: ClusterLoad) -> None:
    """The incremental sums against a plain computation; and the transfer's forecast against the score after the move."""
    rules = Rules(weights=Weights(memory=2, vcpus=3, cpu=5, excess=7))
    assert isclose(Board(load, rules).score(), textbook(load), abs_tol=1e-9)
    for _, moves in groupby(plan(load, rules).moves, key=lambda move: move.group or move.vm):
        for move in moves:
            vms = tuple(replace(v, node=move.target) if v.vm == move.vm else v for v in load.vms)
            load = ClusterLoad(nodes=load.nodes, vms=vms)
        assert isclose(move.score_after, textbook(load), abs_tol=1e-9)


def textbook(load: ClusterLoad) -> float:
    def of(what: str, name: NodeId) -> float:
        return float(sum(getattr(v, what) for v in load.vms if v.node == name))

    open = [n for n in load.nodes if not n.cordoned]
    kept = [max(n.kept_mib, n.kept_charged_mib) for n in open]
    cpu = [of("demand_pcpus", n.node) / n.pcpus for n in open]
    excess = sum(max(0.0, of("demand_pcpus", n.node) / n.pcpus - 0.8) for n in load.nodes)
    if not open:
        return 7 * excess
    promised = [sum(max(v.memory_mib, v.charged_mib) for v in load.vms if v.node == n.node) for n in open]
    memory = [(k + p) / n.memory_mib for k, p, n in zip(kept, promised, open, strict=True)]
    vcpus = [(n.vcpus_kept + of("vcpus", n.node)) / n.pcpus for n in open]
    return 2 * pstdev(memory) + 3 * pstdev(vcpus) + 5 * pstdev(cpu) + 7 * excess


def test_the_budget_of_looks_bounds_the_work_and_what_was_found_counts() -> None:
    load = cluster(6, *(vm(f"v{i:02}", f"n{1 + i % 2}", memory_mib=1024) for i in range(30)))
    short, long = plan(load, Rules(), looks_max=400), plan(load, Rules())
    assert long.planned <= short.planned < short.score


# --- single rules ------------------------------------------------------------------------------------------------------


def only(found: Plan) -> Move:
    assert len(found.moves) == 1, found.moves
    return found.moves[0]


def test_an_even_cluster_is_left_alone() -> None:
    load = cluster(3, *(vm(f"v{i}", f"n{i % 3 + 1}") for i in range(6)))
    found = plan(load, Rules())
    assert (found.score, found.moves) == (0.0, ())


def test_a_crowded_node_gives_to_an_empty_one_and_says_why() -> None:
    load = cluster(2, vm("a", "n1"), vm("b", "n1"))
    move = only(plan(load, Rules()))
    assert (move.vm, move.origin, move.target) == ("a", "n1", "n2")
    assert move.reason == "n1 has 0.50 vCPUs on each pCPU, n2 0.00; with a there it is 0.25 and 0.25"


def test_a_noisy_neighbour_is_the_reason() -> None:
    """One VM wants more than its node has left: of the quiet ones beside it, one makes room, and the sentence has the numbers."""
    quiet = [vm(f"q{i}", "n1", demand_pcpus=1.0) for i in range(2)]
    noisy = vm("noisy", "n1", vcpus=8, demand_pcpus=7.5)
    load = cluster(2, *quiet, noisy, *(vm(f"r{i}", "n2", vcpus=4) for i in range(3)))
    found = plan(load, Rules())
    first = found.moves[0]
    assert (first.origin, first.target) == ("n1", "n2")
    assert first.reason.startswith("VMs on n1 want 119% of its CPU time and wait above 80%; without")
    assert found.planned_terms["excess"] < found.terms["excess"] / 2


def test_a_move_that_gains_less_than_it_costs_is_not_made() -> None:
    load = cluster(2, vm("a", "n1", memory_mib=512, vcpus=1), vm("b", "n1", memory_mib=512, vcpus=1))
    assert plan(load, Rules(gain_min=0.1)).moves
    assert not plan(load, Rules(gain_min=1.0)).moves


def test_of_equals_the_less_important_moves() -> None:
    load = cluster(2, vm("a", "n1", priority=Priority.CRITICAL), vm("b", "n1", priority=Priority.BEST_EFFORT))
    assert only(plan(load, Rules())).vm == "b"


def test_two_that_only_help_together_change_places_at_once() -> None:
    """n1 has the larger ones. One that leaves alone makes vCPUs more uneven than memory becomes even."""
    sizes = {"a": 5000, "b": 4000, "c": 3000, "d": 2000}
    load = cluster(2, *(vm(name, "n1" if name in "ab" else "n2", memory_mib=mib) for name, mib in sizes.items()))
    found = plan(load, Rules())
    assert [m.batch for m in found.moves] == [0, 0]
    assert {m.target for m in found.moves} == {"n1", "n2"}
    first, second = found.moves
    assert first.gain <= 0 < first.gain + second.gain
    assert first.reason.startswith(
        f"{first.vm} leaves {first.origin} for {first.target} together with the move beside it"
    )
    assert not plan(load, Rules(at_once_max=1)).moves


def test_what_fits_only_after_another_left_waits_for_it() -> None:
    """n2 has room for a large VM only once a wide one has gone to n3, which has too little for a large one."""
    load = ClusterLoad(
        nodes=(node("n1"), node("n2", memory_mib=8192), node("n3", memory_mib=4096)),
        vms=(
            *(vm(f"a{i}", "n1", memory_mib=4000, vcpus=3) for i in range(4)),
            *(vm(f"b{i}", "n2", memory_mib=2300, vcpus=8) for i in range(2)),
        ),
    )
    found = plan(load, Rules(gain_min=0.001))
    order = {m.vm: m.batch for m in found.moves}
    assert [name[0] for name in order] == ["b", "a"], found.moves
    assert order[found.moves[0].vm] < order[found.moves[1].vm]


@pytest.mark.parametrize("nodes", [0, 1])
def test_too_few_nodes_to_balance(nodes: int) -> None:
    load = cluster(nodes, *([vm("a", "n1")] * nodes))
    assert plan(load, Rules()).moves == ()


def test_a_list_ends_where_what_follows_does_not_pay() -> None:
    """What is left of a plan whose second half found no room: moves that were only worth it with those fall away."""
    load = cluster(2, vm("a", "n1"), vm("b", "n1"), vm("c", "n1"))
    gains = [("a", 0.5, 0), ("b", 0.001, 1), ("c", 0.0005, 2)]
    moves = [
        Move(
            vm=VmId(name), origin=NodeId("n1"), target=NodeId("n2"), gain=gain, score_before=1.0, score_after=1.0 - gain,
            batch=batch, reason="r",
        )
        for name, gain, batch in gains
    ]  # fmt: skip
    kept, worth = worthwhile(load, Rules(), moves)
    assert [m.vm for m in kept] == ["a"]
    assert worth == pytest.approx(0.5 - costs(Board(load, Rules()))[0])
    assert worthwhile(load, Rules(gain_min=1e-6), moves)[0] == moves


# --- groups, cordoned nodes, limits of a class ----------------------------------------------------------------------------


def test_a_group_moves_as_a_whole_and_each_of_its_vms_says_so() -> None:
    pair = [vm(name, "n1", together="db") for name in ("db-1", "db-2")]
    load = cluster(2, *pair, vm("web", "n1", vcpus=4, memory_mib=4096, fixed="pinned to pCPUs"))
    found = plan(load, Rules())
    assert [(m.vm, m.target, m.batch, m.group) for m in found.moves] == [
        ("db-1", "n2", 0, "db"),
        ("db-2", "n2", 0, "db"),
    ]
    assert sum(m.gain for m in found.moves) == pytest.approx(found.score - found.planned)
    assert "with group db there" in found.moves[0].reason and "all 2 VMs of it move" in found.moves[0].reason


def test_a_group_that_is_larger_than_what_may_move_at_once_has_a_batch_of_its_own() -> None:
    group = [vm(f"db-{i}", "n1", memory_mib=1024, vcpus=1, together="db") for i in range(3)]
    load = cluster(2, *group, vm("a", "n1", fixed="pinned to pCPUs"), vm("b", "n1", fixed="pinned to pCPUs"))
    found = plan(load, Rules(gain_min=0.02))
    assert [m.batch for m in found.moves] == [0, 0, 0]
    assert not plan(load, Rules(gain_min=0.02, plan_max=2)).moves


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fixed": "pinned to pCPUs"}, "db-2 cannot be moved (pinned to pCPUs)"),
        ({"node": NodeId("n2")}, "its VMs are on n1, n2: each may only follow the others"),
    ],
)
def test_of_a_group_that_cannot_move_it_is_said_why(changes: dict[str, object], why: str) -> None:
    one, two = (vm(name, "n1", together="db") for name in ("db-1", "db-2"))
    found = plan(cluster(3, one, replace(two, **changes)), Rules())
    assert [(s.group, s.vms, s.reason) for s in found.stays] == [("db", ("db-1", "db-2"), why)]


def test_one_of_a_split_group_follows_the_others() -> None:
    load = cluster(2, vm("db-1", "n1", together="db"), vm("db-2", "n2", together="db"), vm("a", "n1"), vm("b", "n1"))
    assert all(m.vm != "db-1" or m.target == "n2" for m in plan(load, Rules(gain_min=0.001)).moves)


def test_a_cordoned_node_is_left_where_its_vms_wait_and_never_entered() -> None:
    def crowd(on: str, cordoned: str, demand: float) -> ClusterLoad:
        nodes = tuple(node(name, cordoned=name == cordoned) for name in ("n1", "n2"))
        return ClusterLoad(nodes=nodes, vms=tuple(vm(f"v{i}", on, demand_pcpus=demand) for i in range(4)))

    assert plan(crowd("n1", "n1", 2.5), Rules()).moves[0].target == "n2"
    assert not plan(crowd("n1", "n1", 0.5), Rules()).moves, "nobody waits there, and it need not be even"
    assert not plan(crowd("n1", "n2", 2.5), Rules()).moves


def test_the_limit_of_a_class_is_kept_where_it_arrives() -> None:
    there = [vm(f"q{i}", "n2", vcpus=3, memory_mib=256) for i in range(2)]
    load = cluster(2, vm("a", "n1", vcpus=3), vm("b", "n1", vcpus=8, fixed="pinned to pCPUs"), *there)
    assert [m.vm for m in plan(load, Rules(gain_min=0.01)).moves] == ["a"]
    limited = tuple(replace(v, vcpus_per_pcpu=1.0) if v.vm == "a" else v for v in load.vms)
    assert "a" not in [m.vm for m in plan(replace(load, vms=limited), Rules(gain_min=0.01)).moves], "9 vCPUs on 8 pCPUs"
