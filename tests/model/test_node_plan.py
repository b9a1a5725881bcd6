"""The agent and its node's plan: applied when it is new or its process is, read back, reported until heard; what a VM used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from libs.common.messages import NodeId, Reply, VmId
from proto.machine import Firmware, MachineSpec, Priority, Shape
from proto.plan import OrderPlan, PlanFault, PlanLack, VmPlan
from services.node.cpu import Meter, satisfaction_pct, schedule
from services.node.drivers import Machine, VmCpu
from services.node.drivers.simcpu import SimCpu, SimWish
from services.node.effects import AnswerOrder, SendFact
from services.node.host.threads import ThreadTime
from services.node.plan import VERIFY_US, ApplyPlan, Plans

A = VmPlan(vm=VmId("a"), generation=1, weight=100, pcpus=(0, 1))
B = VmPlan(vm=VmId("b"), generation=4, weight=800, pcpus=(0, 1))
HERE = {"a": Machine("a", 1, 11, "running"), "b": Machine("b", 4, 12, "running")}
ACCEPTED = Reply(status="accepted")


def order(version: int = 1, incarnation: int = 1, vms: tuple[VmPlan, ...] = (A, B)) -> OrderPlan:
    return OrderPlan(node="n1", version=version, vms=vms, incarnation=incarnation)


def applies(effects: list[Any]) -> list[str]:
    return [e.plan.vm for e in effects if isinstance(e, ApplyPlan)]


def facts(effects: list[Any]) -> list[Any]:
    return [e.fact for e in effects if isinstance(e, SendFact)]


def taken(effects: list[Any]) -> list[bool]:
    return [e.heard.accepted for e in effects if isinstance(e, AnswerOrder)]


def applied(plans: Plans, now_us: int = 0, here: dict[str, Machine] = HERE) -> list[Any]:
    """All that is under way is done."""
    for plan in (A, B):
        if plan.vm in plans.parts and plans.order is not None:
            plans.on_applied(plan, plans.order.version, ())
    return plans.on_tick(here, now_us)


def test_a_plan_is_applied_to_what_runs_and_then_reported_until_heard() -> None:
    plans = Plans(NodeId("n1"))
    out = plans.on_order(None, order(), HERE, 0)
    assert taken(out) == [True] and applies(out) == ["a", "b"] and facts(out) == []
    plans.on_applied(A, 1, ())
    assert plans.on_tick(HERE, 0) == [], "one is still being applied"
    plans.on_applied(B, 1, ())
    (sent,) = plans.on_tick(HERE, 0)
    assert isinstance(sent, SendFact) and sent.fact.applied == ("a", "b") and not sent.fact.faults  # type: ignore[attr-defined]
    assert facts(plans.on_tick(HERE, 500_000)) == []
    assert len(facts(plans.on_tick(HERE, 1_000_000))) == 1
    plans.on_reply(sent.serial, ACCEPTED)
    assert facts(plans.on_tick(HERE, 9_000_000)) == []


def test_older_orders_are_refused_and_the_same_again_is_answered_with_the_report() -> None:
    plans = Plans(NodeId("n1"))
    plans.on_order(None, order(2), HERE, 0)
    applied(plans)
    assert taken(plans.on_order(None, order(1), HERE, 0)) == [False]
    plans.on_reply(1, ACCEPTED)
    again = plans.on_order(None, order(2), HERE, 100)
    assert taken(again) == [True] and applies(again) == [] and len(facts(again)) == 1
    restored = plans.on_order(None, order(1, incarnation=2), HERE, 200)
    assert taken(restored) == [True] and applies(restored) == ["a", "b"]
    assert taken(plans.on_order(None, order(9), HERE, 300)) == [False]


def test_only_the_generation_that_is_named_is_touched() -> None:
    plans = Plans(NodeId("n1"))
    other = {"a": Machine("a", 2, 11, "running")}
    assert applies(plans.on_order(None, order(), other, 0)) == []


def test_it_is_applied_again_after_a_start_a_plugged_vcpu_and_now_and_then() -> None:
    plans = Plans(NodeId("n1"))
    alone = {"a": HERE["a"]}
    plans.on_order(None, order(), alone, 0)
    applied(plans, 0, alone)
    assert applies(plans.on_tick(HERE, 1)) == ["b"], "b has started"
    applied(plans, 1)
    plans.on_threads("a", 1)
    assert applies(plans.on_tick(HERE, 2)) == []
    plans.on_threads("a", 2)
    assert applies(plans.on_tick(HERE, 3)) == ["a"], "a vCPU was plugged"
    applied(plans, 3)
    moved = HERE | {"b": msgspec.structs.replace(HERE["b"], pid=99)}
    assert applies(plans.on_tick(moved, 4)) == ["b"], "another process"
    plans.on_applied(B, 1, ())
    assert applies(plans.on_tick(moved, VERIFY_US + 3)) == ["a"]


def test_what_fails_is_reported_and_what_is_mended_as_well() -> None:
    plans = Plans(NodeId("n1"))
    plans.on_order(None, order(), HERE, 0)
    fault = PlanFault(vm="a", part="cap", sentence="no")
    plans.on_applied(A, 1, (fault,))
    plans.on_applied(B, 1, ())
    (fact,) = facts(plans.on_tick(HERE, 0))
    assert fact.applied == ("b",) and fact.faults == (fault,) and plans.faults_of("a") == (fault,)
    assert applies(plans.on_tick(HERE, VERIFY_US)) == ["a", "b"]
    (mended,) = facts(applied(plans, VERIFY_US))
    assert mended.applied == ("a", "b") and mended.faults == ()


def test_what_the_node_can_apply_to_no_vm_is_told_once_and_the_rest_counts_as_applied() -> None:
    plans = Plans(NodeId("n1"))
    plans.on_order(None, order(), HERE, 0)
    of_a, of_b = (PlanFault(vm=vm, part="weight", sentence="no controller", node_wide=True) for vm in ("a", "b"))
    own = PlanFault(vm="b", part="vcpu-pcpus", sentence="no")
    assert not plans.known(of_a)
    plans.on_applied(A, 1, (of_a,))
    assert plans.known(of_b) and not plans.known(own)
    plans.on_applied(B, 1, (of_b, own))
    (fact,) = facts(plans.on_tick(HERE, 0))
    assert fact.applied == ("a",) and fact.faults == (own,)
    assert fact.lacking == (PlanLack(part="weight", sentence="no controller"),)
    assert plans.faults_of("b") == (of_b, own), "who asks for one VM hears of both"


def test_a_vm_that_the_driver_does_not_know_is_asked_for_again_and_not_reported() -> None:
    plans = Plans(NodeId("n1"))
    plans.on_order(None, order(), HERE, 0)
    plans.on_applied(A, 1, None)
    plans.on_applied(B, 1, ())
    out = plans.on_tick(HERE, 0)
    assert applies(out) == [] and facts(out)[0].applied == ("b",)
    assert applies(plans.on_tick(HERE, 1_000_000)) == ["a"]


def test_a_report_of_an_older_plan_under_way_is_not_taken_for_the_new_one() -> None:
    plans = Plans(NodeId("n1"))
    plans.on_order(None, order(1), HERE, 0)
    plans.on_order(None, order(2), HERE, 0)
    plans.on_applied(A, 1, ())
    plans.on_applied(B, 1, ())
    out = plans.on_tick(HERE, 0)
    assert applies(out) == ["a", "b"] and facts(out) == []


# --- the meter -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "waited", "cap", "vcpus", "score"),
    [
        (0.0, 0.0, 0, 1, 100.0),
        (100.0, 0.0, 0, 1, 100.0),
        (50.0, 50.0, 0, 1, 50.0),
        (25.0, 75.0, 25, 1, 100.0),
        (20.0, 75.0, 25, 1, 80.0),
        (100.0, 300.0, 0, 4, 25.0),
        (0.5, 0.4, 0, 1, 100.0),
    ],
)
def test_satisfaction_is_what_was_got_of_what_was_wanted_and_due(
    used: float, waited: float, cap: int, vcpus: int, score: float
) -> None:
    assert satisfaction_pct(used, waited, cap, vcpus) == score


def times(ran_s: float, waited_s: float, throttled_s: float = 0.0, thread: int = 7, cap_pct: int = 0) -> VmCpu:
    own = ThreadTime(thread, int(ran_s * 1e9), int(waited_s * 1e9), (0, 1), 1)
    return VmCpu("a", 1, (own,), 3, int(ran_s * 1e8), (0,), 100, cap_pct, int(throttled_s * 1e9))


def test_a_beat_is_the_difference_of_two_looks() -> None:
    meter = Meter("n1")
    assert meter.look([times(5.0, 1.0)], (10, 1000), 1_000_000) is None
    beat = meter.look([times(6.0, 2.0, 0.5)], (30, 1400), 3_000_000)
    assert beat is not None and (beat.node, beat.window_ms, beat.steal_pct) == ("n1", 2000, 5.0)
    (vm,) = beat.vms
    assert (vm.used_pct, vm.ready_pct, vm.throttled_pct, vm.demand_pct) == (55.0, 50.0, 25.0, 105.0)
    assert vm.satisfaction_pct == 55.0 and vm.vcpus == ((50.0, 50.0),)
    view = schedule(times(6.0, 2.0), beat, A, (), "n1")
    assert (view.vcpus[0].used_pct, view.vcpus[0].ready_pct, view.vcpus[0].pcpus) == (50.0, 50.0, (0, 1))
    assert view.plan == A and schedule(times(6.0, 2.0), beat, B, (), "n1").plan is None


def test_a_restarted_or_changed_vm_has_no_beat_until_it_was_seen_twice() -> None:
    meter = Meter("n1")
    meter.look([times(5.0, 1.0)], (0, 0), 1_000_000)
    beat = meter.look([times(0.1, 0.0, thread=8)], (0, 0), 2_000_000)
    assert beat is not None and beat.vms == () and beat.steal_pct == 0.0


# --- the simulated host --------------------------------------------------------------------------------------------------

SHAPE = Shape(
    vcpus=1,
    memory_mib=256,
    vcpus_max=1,
    memory_max_mib=256,
    machine="m",
    cpu_model="c",
    firmware=Firmware.DIRECT,
    uuid="u",
)


def wish(pid: int, want_pct: float, priority: Priority = Priority.NORMAL) -> SimWish:
    return SimWish(f"vm{pid}", pid, MachineSpec(vm=f"vm{pid}", generation=1, shape=SHAPE, priority=priority), want_pct)


def test_a_simulated_host_divides_by_weight_cap_and_pcpus() -> None:
    cpu = SimCpu(((0,), (1,)))
    wishes = [wish(10, 100.0, Priority.IMPORTANT), wish(20, 100.0), wish(30, 10.0), wish(40, 100.0)]
    for pid in (10, 20, 30):
        cpu.plans[pid] = VmPlan(vm=VmId(f"vm{pid}"), generation=1, weight=400 if pid == 10 else 100, pcpus=(0,))
    cpu.plans[40] = VmPlan(vm=VmId("vm40"), generation=1, weight=100, cap_pct=25, pcpus=(1,))
    cpu.advance(wishes, 1_000_000)
    got = [cpu.look(w) for w in wishes]
    ran = [round(vm.vcpus[0].ran_ns / 1e7, 3) for vm in got]
    assert ran == [72.0, 18.0, 10.0, 25.0]
    assert round(got[1].vcpus[0].waited_ns / 1e7, 3) == 82.0 and round(got[3].throttled_ns / 1e7, 3) == 75.0
