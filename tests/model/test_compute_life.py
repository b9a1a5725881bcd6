"""What nodes report of a VM, how it ends, and how it is paused, resumed and reset."""

from __future__ import annotations

import msgspec
import pytest

from proto.compute import (
    DeleteVm,
    GoneCause,
    PauseVm,
    Refusal,
    ResetVm,
    ResumeVm,
    Seen,
    StartVm,
    StopVm,
    VmCommand,
    VmDeleted,
    VmEvent,
    VmReset,
    VmResumed,
    VmStartFailed,
)
from tests.model.compute_story import (
    DEFINED,
    HISTORIES,
    LAUNCHING,
    N1,
    N2,
    PAUSE,
    PAUSED,
    RESERVING,
    RESET,
    RESUME,
    RUNNING,
    STOP_REQUESTED,
    STOPPED,
    STOPPING,
    A,
    choice,
    report,
    requested,
    vm,
)


@pytest.mark.parametrize("history", [LAUNCHING, RUNNING, STOPPING], ids=["launching", "running", "stopping"])
def test_only_the_node_that_the_log_names_is_believed(history: tuple[VmEvent, ...]) -> None:
    for seen in Seen:
        vm.given(*history).when(report(seen, node=N2)).refused(Refusal.NOT_PERMITTED)
        vm.given(*history).when(report(seen, generation=2)).refused(Refusal.NOT_PERMITTED)


def test_an_older_generation_is_history_unless_it_still_runs() -> None:
    second = vm.given(*STOPPING, STOPPED, requested(N2, 2, choice(N2)))
    for seen in (Seen.GONE, Seen.FAILED):
        second.when(report(seen)).nothing()
    for seen in (Seen.RUNNING, Seen.PAUSED):
        second.when(report(seen)).refused(Refusal.NOT_YOURS)
        vm.given(*STOPPING, STOPPED).when(report(seen)).refused(Refusal.NOT_YOURS)
        vm.given(*HISTORIES["deleted"]).when(report(seen)).refused(Refusal.NOT_YOURS)


def test_a_log_that_was_restored_condemns_nothing() -> None:
    """A generation beyond the log's may be the truth that the log has lost."""
    vm.given().when(report(Seen.RUNNING, generation=5)).nothing()
    vm.given(DEFINED).when(report(Seen.RUNNING, generation=5)).refused(Refusal.NOT_PERMITTED)


def test_an_end_is_seen_with_its_cause() -> None:
    crashed = msgspec.structs.replace(STOPPED, cause=GoneCause.CRASHED, sentence="signal 9", unwished=True)
    vm.given(*RUNNING).when(report(Seen.GONE, cause="crashed", sentence="signal 9")).then(crashed).twice()


def test_a_stop_in_full() -> None:
    vm.given(*RUNNING).when(StopVm(vm="a")).then(STOP_REQUESTED).twice()
    vm.given(*STOPPING).when(report(Seen.RUNNING)).nothing()
    vm.given(*STOPPING).when(report(Seen.GONE, cause="ordered")).then(STOPPED).twice()
    vm.given(*STOPPING, STOPPED).when(StopVm(vm="a")).nothing()
    vm.given(*STOPPING, STOPPED).when(DeleteVm(vm="a")).then(VmDeleted(vm=A, node=N1)).twice(Refusal.NOT_DEFINED)


def test_a_stop_may_be_hurried_but_not_delayed() -> None:
    now = msgspec.structs.replace(STOP_REQUESTED, deadline_s=0)
    vm.given(*STOPPING).when(StopVm(vm="a", deadline_s=0)).then(now).twice()
    vm.given(*STOPPING).when(StopVm(vm="a", deadline_s=600)).nothing()


def test_a_start_may_be_stopped_at_each_step() -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="stopped before it was launched", tried=(N1,))
    vm.given(*RESERVING).when(StopVm(vm="a")).then(failed).twice()
    vm.given(*LAUNCHING).when(StopVm(vm="a")).then(STOP_REQUESTED).twice()
    cancelled = vm.given(*LAUNCHING, STOP_REQUESTED)
    cancelled.when(report(Seen.FAILED, sentence="locked")).then(
        msgspec.structs.replace(STOPPED, cause=GoneCause.UNKNOWN, sentence="locked")
    )
    cancelled.when(StartVm(vm="a", choice=choice(N1))).refused(Refusal.BUSY)


@pytest.mark.parametrize("history", [RESERVING, LAUNCHING, RUNNING, STOPPING])
def test_only_a_stopped_vm_is_deleted(history: tuple[VmEvent, ...]) -> None:
    vm.given(*history).when(DeleteVm(vm="a")).refused(Refusal.NOT_STOPPED)


def test_pause_and_resume_in_full() -> None:
    vm.given(*RUNNING).when(PauseVm(vm="a")).then(PAUSE).twice()
    vm.given(*RUNNING, PAUSE).when(report(Seen.PAUSED)).then(PAUSED).twice()
    vm.given(*RUNNING, PAUSE, PAUSED).when(ResumeVm(vm="a")).then(RESUME).twice()
    resumed = VmResumed(vm=A, generation=1)
    resuming = vm.given(*RUNNING, PAUSE, PAUSED, RESUME)
    resuming.when(report(Seen.RUNNING)).then(resumed).twice()
    vm.given(*RUNNING, PAUSE, PAUSED, RESUME, resumed).when(ResumeVm(vm="a")).refused(Refusal.NOT_PAUSED)


def test_a_report_on_an_older_order_says_nothing_about_the_wish() -> None:
    resuming = (*RUNNING, PAUSE, PAUSED, RESUME)
    asked = len(resuming)
    vm.given(*resuming, PAUSE).when(report(Seen.PAUSED, version=asked)).nothing()
    vm.given(*resuming).when(report(Seen.RUNNING, version=asked - 1)).nothing()
    vm.given(*resuming).when(report(Seen.RUNNING, version=asked)).then(VmResumed(vm=A, generation=1))


def test_resets_are_counted() -> None:
    reset = VmReset(vm=A, generation=1, resets=1)
    vm.given(*RUNNING).when(ResetVm(vm="a")).then(RESET).twice()
    vm.given(*RUNNING, RESET).when(report(Seen.RUNNING, resets=0)).nothing()
    vm.given(*RUNNING, RESET).when(report(Seen.RUNNING, resets=1)).then(reset).twice()
    vm.given(*RUNNING, RESET).when(report(Seen.RUNNING, resets=7)).then(reset)
    second = msgspec.structs.replace(RESET, resets=2)
    vm.given(*RUNNING, RESET, reset).when(ResetVm(vm="a")).then(second)


@pytest.mark.parametrize("command", [PauseVm(vm="a"), ResumeVm(vm="a"), ResetVm(vm="a")], ids=str)
def test_only_a_running_vm_is_steered(command: VmCommand) -> None:
    for history in ((DEFINED,), RESERVING, LAUNCHING, STOPPING):
        vm.given(*history).when(command).refused(Refusal.NOT_RUNNING)
