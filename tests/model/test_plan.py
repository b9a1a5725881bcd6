"""The plan of a node as a stream: made when something differs, applied or faulted as its agent says, better when VMs lack."""

from __future__ import annotations

from typing import Any

import msgspec

from libs.common.messages import NodeId, Recorded, VmId, encode
from libs.common.testing import Spec
from proto.compute import (
    Capabilities,
    GoneCause,
    NodeReported,
    Placement,
    Refusal,
    VmStarted,
    VmStartRequested,
    VmStopped,
)
from proto.machine import Allotment, Priority
from proto.plan import (
    CpuBeat,
    MakePlan,
    NodeCpus,
    PlanApplied,
    PlanFault,
    PlanFaulted,
    PlanInputs,
    PlanLack,
    PlanLimited,
    PlanMade,
    ReportPlan,
    ReviewPlan,
    SetAllotment,
    VmAllotted,
    VmCpuBeat,
    VmNeeds,
)
from services.compute.enriching import enrich
from services.compute.hearing import hear
from services.compute.plan import PLAN, Plan
from services.compute.react import orders, react, ticks
from services.compute.views import Views

N1 = NodeId("n1")
CELLS = NodeCpus(cells=((0, 1), (2, 3)))
plan = Spec(PLAN)


def needs(name: str, **wish: object) -> VmNeeds:
    return VmNeeds(vm=VmId(name), generation=1, vcpus=1, allotment=Allotment(**wish))  # type: ignore[arg-type]


def wanted(*vms: VmNeeds, cpus: NodeCpus = CELLS) -> MakePlan:
    return MakePlan(node="n1", inputs=PlanInputs(cpus=cpus, vms=vms))


def made(*commands: MakePlan) -> list[PlanMade]:
    events: list[PlanMade] = []
    for command in commands:
        events += PLAN.decide(command, PLAN.fold(events))  # type: ignore[arg-type]
    return events


def test_an_event_holds_what_changed_and_nothing_where_nothing_did() -> None:
    first, second, third = made(wanted(needs("a")), wanted(needs("a"), needs("b")), wanted(needs("b")))
    assert (first.revision, [v.vm for v in first.vms], first.cpus) == (1, ["a"], CELLS)
    assert (second.revision, [v.vm for v in second.vms], [v.vm for v in second.needs]) == (2, ["b"], ["b"])
    assert second.cpus is None and second.gone == () and second.vms[0].sentence
    assert third.gone == ("a",) and third.vms == ()
    state = PLAN.fold([first, second, third])
    assert set(state.vms) == set(state.needs) == {"b"}
    assert PLAN.decide(wanted(needs("b")), state) == ()
    plan.given().when(MakePlan(node="n1")).then()


def test_the_same_vm_of_a_new_generation_is_planned_anew() -> None:
    (first,) = made(wanted(needs("a")))
    again = msgspec.structs.replace(needs("a"), generation=2)
    (second,) = PLAN.decide(wanted(again), PLAN.fold([first]))
    assert isinstance(second, PlanMade) and second.vms[0].generation == 2


def test_what_the_agent_says_counts_for_the_plan_it_names() -> None:
    first, second = made(wanted(needs("a")), wanted(needs("a"), needs("b")))
    fault = PlanFault(vm="a", part="cap", sentence="cpu.cfs_quota_us does not take it")
    done = ReportPlan(node=N1, order_version=2, applied=("a", "b"))
    partly = ReportPlan(node=N1, order_version=2, applied=("b",), faults=(fault,))
    given = plan.given(first, second)
    given.when(done).then(PlanApplied(node=N1, revision=2)).twice()
    given.when(partly).then(PlanFaulted(node=N1, revision=2, faults=(fault,))).twice()
    given.when(ReportPlan(node=N1, order_version=2, applied=("a",))).then()
    given.when(msgspec.structs.replace(done, order_version=1)).then()
    given.when(msgspec.structs.replace(done, order_incarnation=1, incarnation=2)).then()
    given.when(msgspec.structs.replace(done, order_version=3)).refused(Refusal.NOT_PERMITTED)
    faulted = plan.given(first, second, PlanFaulted(node=N1, revision=2, faults=(fault,)))
    faulted.when(done).then(PlanApplied(node=N1, revision=2))
    gone = PlanFault(vm="gone", part="cap", sentence="of a VM that has left")
    given.when(msgspec.structs.replace(done, faults=(gone,))).then(PlanApplied(node=N1, revision=2))


def test_a_part_that_no_vm_can_have_is_recorded_once_and_plans_are_partial() -> None:
    first, second = made(wanted(needs("a")), wanted(needs("a"), needs("b")))
    lacking = (PlanLack(part="cap", sentence="no controller"), PlanLack(part="weight", sentence="no controller"))
    limited = PlanLimited(node=N1, lacking=lacking)
    told = ReportPlan(node=N1, order_version=1, applied=("a",), lacking=lacking)
    plan.given(first).when(told).then(limited, PlanApplied(node=N1, revision=1, partial=("cap", "weight")))
    history = (first, limited, PlanApplied(node=N1, revision=1, partial=("cap", "weight")), second)
    again = ReportPlan(node=N1, order_version=2, applied=("a", "b"), lacking=lacking)
    plan.given(*history).when(again).then(PlanApplied(node=N1, revision=2, partial=("cap", "weight"))).twice()
    whole = msgspec.structs.replace(again, lacking=())
    plan.given(*history).when(whole).then(PlanLimited(node=N1), PlanApplied(node=N1, revision=2))
    plan.given(*history).when(ReportPlan(node=N1, order_version=2)).then()
    fault = PlanFault(vm="b", part="vcpu-pcpus", sentence="pCPU 7 is gone")
    partly = msgspec.structs.replace(again, applied=("a",), faults=(fault,))
    plan.given(*history).when(partly).then(PlanFaulted(node=N1, revision=2, faults=(fault,)))


def crowded() -> list[PlanMade]:
    """Four VMs that came while the other cell was full."""
    names = "abcd"
    others = [needs(f"x{n}") for n in range(4)]
    events = made(
        wanted(*(needs(n) for n in names), *others),
    )
    homes = {vm.vm: vm.pcpus for vm in events[0].vms}
    stay = [n for n, pcpus in homes.items() if pcpus == (0, 1)]
    return [*events, *PLAN.decide(wanted(*(needs(n) for n in stay)), PLAN.fold(events))]  # type: ignore[list-item]


def test_a_review_makes_a_better_plan_once_and_cools_down() -> None:
    history = crowded()
    state = PLAN.fold(history)
    assert {p.pcpus for p in state.vms.values()} == {(0, 1)} and len(state.vms) == 4
    demand = dict.fromkeys(state.vms, 100.0)
    review = ReviewPlan(node="n1", now_us=100_000_000, demand_pct=demand, worst_pct=50.0, low_s=12.0)
    for patient in (
        msgspec.structs.replace(review, worst_pct=85.0),
        msgspec.structs.replace(review, low_s=5.0),
        msgspec.structs.replace(review, demand_pct={}),
    ):
        assert PLAN.decide(patient, state) == ()
    (moved,) = PLAN.decide(review, state)
    assert isinstance(moved, PlanMade)
    assert moved.moved and moved.gain_pct == 25.0 and moved.sentence and moved.at_us == review.now_us
    assert [v.vm for v in moved.vms] == [moved.moved] and moved.vms[0].pcpus == (2, 3)
    after = PLAN.fold([moved], state)
    assert PLAN.decide(msgspec.structs.replace(review, now_us=review.now_us + 59_000_000), after) == ()
    assert len(PLAN.decide(msgspec.structs.replace(review, now_us=review.now_us + 61_000_000), after)) == 1
    assert not PLAN.decide(wanted(*state.needs.values()), after), "the next start does not undo it"


# --- inside the service --------------------------------------------------------------------------------------------------

CAN = Capabilities(
    accelerator="tcg", cpu_model="qemu64", pcpus=4, memory_mib=4096, qemu_version="7.2", machine="pc-q35-7.2", driver="simulated",
    cells=((0, 1), (2, 3)),
)  # fmt: skip


def applied(views: Views, *events: msgspec.Struct) -> Views:
    for position, event in enumerate(events):
        views.apply(Recorded(position, "s", 1, "t", 1, 0, b"", b""), event)
    return views


def asked(name: str = "a", generation: int = 1) -> VmStartRequested:
    return VmStartRequested(
        vm=VmId(name), node=N1, generation=generation, memory_mib=256, vcpus=2, priority=Priority.CRITICAL,
        placement=Placement(policy="p"), allotment=Allotment(cpu_reserved_pct=50),
    )  # fmt: skip


STARTED = VmStarted(vm=VmId("a"), node=N1, generation=1)
REPORTED = NodeReported(node=N1, capabilities=CAN, boot_id="b")


def test_a_vm_is_planned_from_its_start_to_its_end() -> None:
    views = applied(Views(), REPORTED, asked())
    assert enrich(MakePlan(node="n1"), views, 0).inputs.vms == ()
    applied(views, STARTED)
    assert react(STARTED, Recorded(1, "s", 1, "t", 1, 0, b"", b""), views) == [MakePlan(node="n1")]
    (vm,) = enrich(MakePlan(node="n1"), views, 0).inputs.vms
    assert (vm.vm, vm.vcpus, vm.priority, vm.allotment.cpu_reserved_pct) == ("a", 2, Priority.CRITICAL, 50)
    stopped = VmStopped(vm=VmId("a"), node=N1, generation=1, cause=GoneCause.ORDERED)
    applied(views, stopped)
    assert enrich(MakePlan(node="n1"), views, 0).inputs.vms == ()
    assert enrich(MakePlan(node="nowhere"), views, 0).inputs is None


def test_a_new_allotment_of_a_running_vm_is_planned_at_once() -> None:
    views = applied(Views(), REPORTED, asked(), STARTED, asked("b"), VmStarted(vm=VmId("b"), node=N1, generation=1))
    allotted = VmAllotted(vm=VmId("a"), priority=Priority.NORMAL, allotment=Allotment(cpu_cap_pct=25))
    applied(views, allotted)
    assert react(allotted, Recorded(1, "s", 1, "t", 1, 0, b"", b""), views) == [MakePlan(node="n1")]
    vm = enrich(MakePlan(node="n1"), views, 0).inputs.vms[0]
    assert (vm.priority, vm.allotment.cpu_cap_pct, vm.allotment.cpu_reserved_pct) == (Priority.NORMAL, 25, 0)
    told = enrich(SetAllotment(vm="a", others_reserved_pct=9999), views, 0)
    assert told.cpus == NodeCpus(cells=((0, 1), (2, 3))) and told.others_reserved_pct == 50
    stranger = VmAllotted(vm=VmId("z"), priority=Priority.NORMAL, allotment=Allotment())
    applied(views, stranger)
    assert react(stranger, Recorded(1, "s", 1, "t", 1, 0, b"", b""), views) == ()


def beat(satisfaction_pct: float, node: str = "n1") -> bytes:
    return encode(CpuBeat(node, 0, 1000, 0.0, (VmCpuBeat("a", 1, 50.0, 50.0, 0.0, satisfaction_pct, 100.0),)))


def test_reviews_come_by_the_clock_with_what_was_heard_and_for_how_long() -> None:
    views = applied(Views(), REPORTED, asked(), STARTED)
    state = PLAN.fold(made(wanted(needs("a"))))
    one_cell = PLAN.fold(made(wanted(needs("a"), cpus=NodeCpus(cells=((0, 1),)))))
    (_, review) = ticks(7, iter([("plan-n1", state), ("plan-n2", one_cell), ("plan-n3", Plan())]))
    assert review == ReviewPlan(node="n1", now_us=7)
    hear("tel.n1.cpu", beat(90.0), 1_000_000, views)
    hear("tel.n1.cpu", beat(50.0), 2_000_000, views)
    hear("tel.n1.cpu", beat(60.0), 9_000_000, views)
    hear("tel.n2.cpu", beat(1.0), 9_000_000, views)
    hear("tel.n1.cpu", beat(1.0, node="n2"), 9_000_000, views)
    seen = enrich(ReviewPlan(node="n1", now_us=10_000_000), views, 0)
    assert (seen.worst_pct, seen.low_s, seen.demand_pct) == (60.0, 8.0, {"a": 100.0})
    late = enrich(ReviewPlan(node="n1", now_us=15_000_000), views, 0)
    assert (late.worst_pct, late.low_s, late.demand_pct) == (100.0, 0.0, {})
    hear("tel.n1.cpu", beat(90.0), 10_000_000, views)
    assert enrich(ReviewPlan(node="n1", now_us=10_000_000), views, 0).low_s == 0.0


def test_the_whole_plan_is_ordered_while_vms_run() -> None:
    first, second, third = made(wanted(needs("a")), wanted(needs("a"), needs("b")), wanted())
    order: Any = orders("plan-n1", PLAN.fold([first, second]), 2)
    assert order is not None and order.node == "n1"
    assert (order.message.version, [v.vm for v in order.message.vms]) == (2, ["a", "b"])
    assert orders("plan-n1", PLAN.fold([first, second, third]), 3) is None
