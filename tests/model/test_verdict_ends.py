"""What compute makes of a verdict: it ends what was found dead, and nothing else."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import NodeId
from proto.compute import (
    GoneCause,
    ReportVm,
    Seen,
    StopVm,
    VmStopped,
    VmStopRequested,
)
from proto.panics import EndVm
from proto.vitals import (
    Evidence,
    Kind,
    VerdictReached,
)
from services.compute import panics
from services.compute.model import VM
from services.compute.states import Vm
from tests.model.test_growth import running, seen


def after(vm: Vm, *events: Any) -> Vm:
    return VM.fold(events, vm)


def verdict(kind: Kind = Kind.PANIC, *, treated: bool = True) -> VerdictReached:
    return VerdictReached(
        vm=running().id, node=NodeId("n1"), generation=1, number=1, kind=kind, at_us=1, sentence="it is dead",
        evidence=Evidence(said="it is dead"), treated=treated,
    )  # fmt: skip


def test_compute_powers_it_off_and_says_why_it_ended() -> None:
    vm = running()
    (command,) = panics.react(verdict())
    (stop,) = VM.decide(command, vm)
    assert isinstance(stop, VmStopRequested) and (stop.deadline_s, stop.cause) == (0, GoneCause.PANIC)
    stopping = after(vm, stop)
    gone = replace(seen(vm, 1, 256), hardware=None, seen=Seen.GONE, cause=GoneCause.ORDERED)
    assert isinstance(gone, ReportVm)
    (stopped,) = VM.decide(gone, stopping)
    assert isinstance(stopped, VmStopped) and stopped.cause is GoneCause.PANIC
    (crashed,) = VM.decide(replace(gone, cause=GoneCause.CRASHED), stopping)
    assert isinstance(crashed, VmStopped) and crashed.cause is GoneCause.CRASHED


def test_nothing_else_is_ended() -> None:
    vm = running()
    assert not panics.react(verdict(treated=False)) and not panics.react(verdict(Kind.DIED))
    assert [c.cause for c in panics.react(verdict(Kind.HANG))] == [GoneCause.HANG]
    wrong = EndVm(vm=vm.id, generation=vm.generation + 1, cause=GoneCause.HANG)
    assert not VM.decide(wrong, vm)
    assert not VM.decide(EndVm(vm=vm.id, generation=vm.generation, cause=GoneCause.GUEST), vm)
    stopping = after(vm, *VM.decide(StopVm(vm=vm.id, deadline_s=60), vm))
    assert not VM.decide(EndVm(vm=vm.id, generation=vm.generation, cause=GoneCause.HANG), stopping)


def test_somebodys_stop_outweighs_the_verdict_it_comes_after() -> None:
    """It is not started again, then."""
    vm = running()
    dying = after(vm, *VM.decide(EndVm(vm=vm.id, generation=vm.generation, cause=GoneCause.HANG), vm))
    (stop,) = VM.decide(StopVm(vm=vm.id, deadline_s=60), dying)
    assert isinstance(stop, VmStopRequested) and (stop.deadline_s, stop.cause) == (0, GoneCause.ORDERED)
    assert not VM.decide(StopVm(vm=vm.id, deadline_s=60), after(dying, stop))
