"""Dividing a node's memory as ordered: balloons come to their targets or are told of, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.messages import NodeId
from proto.memory import Area
from proto.node import MemoryTarget, OrderMemory
from services.node.memory_plan import AGAIN_US, BALLOON_US, FAULTS_MAX, Act, Balloon, Divide, Inflate, Limit, MemoryPlan

AREAS = (Area(name="vms-normal", max_mib=4096),)
FULL = {"a": Balloon(1, 1024, 1024), "b": Balloon(1, 512, 512)}


def order(version: int = 1, *targets: MemoryTarget, incarnation: int = 1) -> OrderMemory:
    return OrderMemory(node="n1", version=version, targets=targets, limits=AREAS, incarnation=incarnation)


def target(mib: int, vm: str = "a", generation: int = 1, high: int = 0) -> MemoryTarget:
    return MemoryTarget(vm=vm, generation=generation, target_mib=mib, high_mib=high)


def planned(*orders: OrderMemory) -> MemoryPlan:
    plan = MemoryPlan(NodeId("n1"))
    for one in orders:
        assert plan.on_order(one, 1).accepted
    return plan


def turn(plan: MemoryPlan, vms: dict[str, Balloon], now_us: int = 0, faults: Sequence[str] = ()) -> list[Act]:
    acts = plan.step(vms, now_us)
    for act in acts:
        plan.done(act, faults)
    return acts


def test_an_order_is_done_once() -> None:
    plan = planned(order(1, target(256)))
    assert turn(plan, FULL) == [
        Divide(AREAS),
        Limit("a", 0, 0, False),
        Inflate("a", 256),
        Limit("b", 0, 0, False),
    ]
    assert turn(plan, FULL, 1) == []
    assert plan.report(1) is None, "it is not settled yet"
    assert turn(plan, FULL | {"a": Balloon(1, 1024, 256)}, 2) == []
    assert plan.settled and plan.report(2) is None, "nothing is wrong, and nothing was"


def test_an_old_order_is_refused() -> None:
    plan = planned(order(5))
    assert not plan.on_order(order(4), 1).accepted
    assert not plan.on_order(order(9), 2).accepted, "of a log that was restored since"
    assert plan.on_order(order(1, incarnation=2), 2).accepted, "versions count anew in the next one"
    assert plan.on_order(order(1, incarnation=2), 2).accepted, "it is repeated until heard"


def test_a_vm_without_a_target_gets_its_memory_back() -> None:
    plan = planned(order(1, target(256, high=300)))
    turn(plan, FULL)
    small = FULL | {"a": Balloon(1, 1024, 256)}
    turn(plan, small, 1)
    plan.on_order(order(2), 1)
    assert turn(plan, small, 2) == [Divide(AREAS), Limit("a", 0, 0, False), Inflate("a", 1024)]


def test_a_target_of_another_generation_is_passed_over() -> None:
    plan = planned(order(1, target(256, generation=2)))
    assert [a for a in turn(plan, FULL) if isinstance(a, Inflate)] == []
    later = FULL | {"a": Balloon(2, 1024, 1024)}
    assert Inflate("a", 256) in turn(plan, later, 1)


def test_a_target_beyond_the_vm_is_the_whole_vm() -> None:
    plan = planned(order(1, target(9999)))
    assert [a for a in turn(plan, FULL) if isinstance(a, Inflate)] == []


def test_a_guest_that_gives_nothing_back_is_told_of_and_asked_again() -> None:
    plan = planned(order(1, target(256)))
    turn(plan, FULL)
    assert turn(plan, FULL, BALLOON_US - 1) == []
    assert turn(plan, FULL, BALLOON_US) == [Inflate("a", 256)]
    report = plan.report(BALLOON_US)
    assert report is not None and report.order_version == 1
    assert len(report.faults) == 1 and "1024 MiB" in report.faults[0] and "256 MiB" in report.faults[0]
    assert plan.report(BALLOON_US) == report, "until it was heard"
    plan.heard(report, BALLOON_US)
    assert plan.report(BALLOON_US) is None
    assert turn(plan, FULL | {"a": Balloon(1, 1024, 256)}, BALLOON_US + 1) == []
    good = plan.report(BALLOON_US + AGAIN_US)
    assert good is not None and good.faults == ()
    plan.heard(good, BALLOON_US + AGAIN_US)
    assert plan.report(BALLOON_US * 9) is None


def test_what_a_vm_has_grown_by_its_balloon_cannot_take() -> None:
    plan = planned(order(1, target(256)))
    grown = FULL | {"a": Balloon(1, 1024, 513, beyond_mib=512)}
    assert Inflate("a", 256) in turn(plan, grown)
    turn(plan, grown, BALLOON_US)
    report = plan.report(BALLOON_US)
    assert report is not None and "512 MiB that it has grown by" in report.faults[0]
    assert "does its balloon driver run" not in report.faults[0]


def test_a_guest_that_wavers_is_not_told_of_all_the_time() -> None:
    plan = planned(order(1, target(256)))
    turn(plan, FULL)
    turn(plan, FULL, BALLOON_US)
    first = plan.report(BALLOON_US)
    assert first is not None
    plan.heard(first, BALLOON_US)
    turn(plan, FULL | {"a": Balloon(1, 1024, 900)}, BALLOON_US + 1)
    assert plan.report(BALLOON_US + 1) is None, "another figure, but soon after the last"
    later = plan.report(BALLOON_US + AGAIN_US)
    assert later is not None and "900 MiB" in later.faults[0]


def test_what_a_host_cannot_do_is_told_for_each_order() -> None:
    plan = planned(order(1))
    turn(plan, FULL, 0, ["memory.max does not take 4096 MiB"])
    report = plan.report(0)
    assert report is not None and report.faults[0].startswith("memory.max does not take")
    plan.heard(report, 0)
    plan.on_order(order(2), 1)
    turn(plan, FULL, 1, ["memory.max does not take 4096 MiB"])
    again = plan.report(1)
    assert again is not None and again.order_version == 2


def test_what_has_ended_is_forgotten_with_its_faults() -> None:
    plan = planned(order(1, target(256)))
    turn(plan, FULL)
    turn(plan, FULL, BALLOON_US)
    turn(plan, {}, BALLOON_US + 1)
    assert plan.report(BALLOON_US + 1) is None and plan.settled


def test_a_mute_monitor_is_late_too() -> None:
    mute = {"a": Balloon(1, 1024, -1)}
    plan = planned(order(1, target(256)))
    turn(plan, mute)
    turn(plan, mute, BALLOON_US)
    report = plan.report(BALLOON_US)
    assert report is not None and "does not answer" in report.faults[0]
    quiet = planned(order(1))
    turn(quiet, mute)
    assert quiet.settled


def test_reports_are_bounded() -> None:
    vms = {f"vm-{i}": Balloon(1, 1024, 1024) for i in range(FAULTS_MAX + 50)}
    plan = planned(order(1, *(target(1, vm) for vm in vms)))
    turn(plan, vms, 0, ["x" * 5000])
    turn(plan, vms, BALLOON_US)
    report = plan.report(BALLOON_US)
    assert report is not None and len(report.faults) == FAULTS_MAX and max(map(len, report.faults)) <= 300


@given(
    sizes=st.lists(st.integers(64, 4096), min_size=1, max_size=6),
    wishes=st.lists(st.integers(1, 8192), min_size=6, max_size=6),
    gives=st.lists(st.integers(0, 400), min_size=1, max_size=60),
)
def test_no_guest_is_asked_for_less_than_was_ordered(sizes: list[int], wishes: list[int], gives: list[int]) -> None:
    """Guests that give at any pace: in the end each has exactly its target, and was never asked for less."""
    vms = {f"v{i}": Balloon(1, mib, mib) for i, mib in enumerate(sizes)}
    plan = planned(order(1, *(target(wish, vm) for vm, wish in zip(vms, wishes, strict=False))))
    asked: dict[str, int] = {}
    want = {vm: min(wish, vms[vm].nominal_mib) for vm, wish in zip(vms, wishes, strict=False)}
    for step, give in enumerate([*gives, *[500] * 20]):
        for act in turn(plan, vms, step * 1_000_000):
            if isinstance(act, Inflate):
                asked[act.vm] = act.mib
                assert act.mib == want[act.vm]
        for vm, to in asked.items():
            vms[vm] = Balloon(1, vms[vm].nominal_mib, max(to, vms[vm].actual_mib - give))
    assert {vm: b.actual_mib for vm, b in vms.items()} == want
    turn(plan, vms, 10**9)
    assert plan.settled and plan.report(10**9) is None


@pytest.mark.parametrize("vms", [FULL, {}])
def test_without_an_order_nothing_is_done(vms: dict[str, Balloon]) -> None:
    plan = MemoryPlan(NodeId("n1"))
    assert plan.step(vms, 0) == [] and plan.report(0) is None and plan.settled
