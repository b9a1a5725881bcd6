"""A running VM moves to another node: given these events, when this command, then those. Across compute, memory and io too."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from libs.common.host.service import Order
from proto.compute import (
    DeleteVm,
    GoneCause,
    NoteDevices,
    NoteMemory,
    PauseVm,
    Refusal,
    ResetVm,
    Seen,
    StartVm,
    StopVm,
    VmCommand,
    VmDevicesNoted,
    VmEvent,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.machine import DiskBus
from proto.migration import (
    CancelMigration,
    VmMigrationFailed,
    VmMigrationRequested,
)
from proto.node import OrderVm, Want
from services.compute.model import VM
from services.compute.react import orders
from services.compute.states import Migrating, Running
from tests.model.compute_story import (
    DEFINED,
    DISKS,
    N1,
    N2,
    NICS,
    PAUSE,
    PAUSED,
    RESET,
    RUNNING,
    STOP_REQUESTED,
    A,
    choice,
    report,
)
from tests.model.migration_story import (
    ARRIVING,
    ASKED,
    AT,
    ENDED,
    ENDING,
    FAILED,
    GRANTED,
    HISTORIES,
    LEFT,
    MIGRATE,
    MOVED,
    NOTED,
    PREPARING,
    RECALLING,
    RESERVING,
    SEND,
    SENDING,
    SPEC,
    STAYED,
    THERE,
    WAITING,
    target,
    vm,
)


def test_a_disk_whose_state_cannot_be_sent_is_told_before_anything_is_reserved() -> None:
    nvme = msgspec.structs.replace(DISKS[0], bus=DiskBus.NVME)
    noted = VmDevicesNoted(vm=A, generation=1, disks=(nvme,), nics=NICS, changed=True)
    vm.given(*RUNNING, noted).when(MIGRATE).refused(Refusal.NOT_STOPPED)


COMMANDS: tuple[VmCommand, ...] = (
    MIGRATE,
    CancelMigration(vm="a"),
    StartVm(vm="a", choice=choice(N1)),
    StopVm(vm="a"),
    PauseVm(vm="a"),
    ResetVm(vm="a"),
    DeleteVm(vm="a"),
    *(NoteMemory(vm="a", node=N2, generation=2, granted=yes) for yes in (True, False)),
    *(NoteDevices(vm="a", node=N2, generation=2, granted=yes, disks=DISKS, nics=NICS) for yes in (True, False)),
    *(report(seen, g, n) for seen, g, n in product(Seen, (1, 2), (N1, N2))),
    report(Seen.GONE, **LEFT),
    report(Seen.RUNNING, unsent="refused"),
    report(Seen.RUNNING, sending=True),
    target(Seen.INCOMING, address=AT),
)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_every_command_is_answered_and_saying_it_twice_changes_nothing(history: tuple[VmEvent, ...]) -> None:
    vm.given(*history).settles(*COMMANDS)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_states_survive_the_wire(history: tuple[VmEvent, ...]) -> None:
    told = vm.given(*history)
    told.survives_the_wire()
    assert told.state.version == len(history)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_the_target_is_told_to_run_only_when_the_source_is_not(history: tuple[VmEvent, ...]) -> None:
    wanted = orders("vm-a", VM.fold(history), 7) or ()
    told = [wanted] if isinstance(wanted, Order) else wanted
    runs = [o.node for o in told if isinstance(o.message, OrderVm) and o.message.want in (Want.RUNNING, Want.MIGRATING)]
    assert len(runs) <= 1
    for order in told:
        assert isinstance(order.message, OrderVm)
        assert order.message.generation == (1 if order.node == N1 else 2)


def test_all_goes_well() -> None:
    vm.given(*RUNNING).when(MIGRATE).then(ASKED).twice()
    note = NoteMemory(vm="a", node=N2, generation=2, granted=True)
    vm.given(*RESERVING).when(note).then(NOTED).twice()
    devices = NoteDevices(vm="a", node=N2, generation=2, granted=True, disks=DISKS, nics=NICS)
    vm.given(*RESERVING, NOTED).when(devices).then(GRANTED, WAITING).twice()
    vm.given(*PREPARING).when(target(Seen.INCOMING, address=AT)).then(SEND).twice()
    vm.given(*SENDING).when(report(Seen.GONE, **LEFT)).then(MOVED).twice()
    vm.given(*ARRIVING).when(target(Seen.RUNNING, boot_id="b", pcpus=(1,), resumed_us=1_065_000)).then(ENDED).twice()
    state = VM.fold(THERE)
    assert isinstance(state, Running)
    assert (state.node, state.generation, state.spec, state.resets, state.boot_id) == (N2, 2, SPEC, 0, "b")


def test_what_is_no_candidate_is_refused_with_the_reasons() -> None:
    vm.given(*RUNNING).when(msgspec.structs.replace(MIGRATE, choice=choice())).refused(Refusal.NO_NODE_FITS)
    vm.given(*RUNNING).when(msgspec.structs.replace(MIGRATE, choice=None)).refused(Refusal.BUSY)
    vm.given(*RUNNING).when(msgspec.structs.replace(MIGRATE, node="n1")).nothing()
    vm.given(*RUNNING).when(msgspec.structs.replace(MIGRATE, unheard=("n3",))).refused(Refusal.RECONCILING)
    vm.given(*RUNNING, RESET).when(MIGRATE).refused(Refusal.BUSY)
    vm.given(*RUNNING, PAUSE).when(MIGRATE).refused(Refusal.BUSY)
    vm.given(DEFINED).when(MIGRATE).refused(Refusal.NOT_RUNNING)
    vm.given(*RUNNING, STOP_REQUESTED).when(MIGRATE).refused(Refusal.NOT_RUNNING)


def test_a_paused_vm_moves_and_stays_paused() -> None:
    moved = (*RUNNING, PAUSE, PAUSED, ASKED, NOTED, GRANTED, WAITING, SEND, MOVED)
    vm.given(*moved).when(target(Seen.RUNNING)).nothing()
    (event,) = vm.given(*moved).when(target(Seen.PAUSED)).events
    state = VM.fold((*moved, event))
    assert isinstance(state, Running) and state.paused and state.pause_wanted


def test_nothing_else_begins_while_it_moves() -> None:
    for history in (RESERVING, PREPARING, SENDING, RECALLING, ENDING):
        for command in (StopVm(vm="a"), StopVm(vm="a", deadline_s=0), PauseVm(vm="a"), ResetVm(vm="a")):
            vm.given(*history).when(command).refused(Refusal.BUSY)
    vm.given(*ARRIVING).when(PauseVm(vm="a")).refused(Refusal.BUSY)
    stop = VmStopRequested(vm=A, node=N2, generation=2, deadline_s=60)
    vm.given(*ARRIVING).when(StopVm(vm="a")).then(stop).twice()


@pytest.mark.parametrize("seen", [Seen.RUNNING, Seen.PAUSED])
@pytest.mark.parametrize("history", [RESERVING, PREPARING, SENDING, RECALLING, ENDING])
def test_a_target_that_says_it_runs_moves_nothing(history: tuple[VmEvent, ...], seen: Seen) -> None:
    vm.given(*history).when(target(seen)).refused(Refusal.RECONCILING)


def test_only_the_sources_own_word_lets_the_target_run() -> None:
    """A source that ended otherwise, or handed the guest to another generation, has not handed it to this one."""
    for wrong in ({"cause": GoneCause.CRASHED}, {"moved_to": 3}, {"moved_to": 0}):
        events = vm.given(*SENDING).when(report(Seen.GONE, **(LEFT | wrong))).events
        assert [type(e) for e in events] == [VmMigrationFailed]
        assert isinstance(VM.fold(events, VM.fold(SENDING)), Migrating)


def test_it_left_before_the_recall_came() -> None:
    vm.given(*RECALLING).when(report(Seen.GONE, **LEFT)).then(MOVED)


def test_a_report_on_an_older_order_says_nothing_about_the_recall() -> None:
    state = VM.fold(RECALLING)
    assert isinstance(state, Migrating)
    vm.given(*RECALLING).when(report(Seen.RUNNING, version=state.asked_version - 1)).nothing()
    vm.given(*RECALLING).when(report(Seen.RUNNING, version=state.asked_version, sending=True)).nothing()
    vm.given(*RECALLING).when(report(Seen.RUNNING, version=state.asked_version)).then(FAILED)


def test_a_late_word_about_an_older_sending_does_not_end_this_one() -> None:
    state = VM.fold(SENDING)
    assert isinstance(state, Migrating)
    vm.given(*SENDING).when(report(Seen.RUNNING, version=state.asked_version - 1, unsent="refused")).nothing()


def test_a_target_of_a_migration_that_failed_is_disowned() -> None:
    for seen in (Seen.INCOMING, Seen.RUNNING, Seen.PAUSED):
        vm.given(*STAYED).when(target(seen)).refused(Refusal.NOT_YOURS)
    vm.given(*STAYED).when(target(Seen.GONE)).nothing()
    vm.given(*THERE).when(report(Seen.RUNNING)).refused(Refusal.NOT_YOURS)


def test_its_generation_is_not_given_again() -> None:
    (event,) = vm.given(*STAYED).when(MIGRATE).events
    assert isinstance(event, VmMigrationRequested) and (event.generation, event.incoming) == (1, 3)
    stopped = (*STAYED, VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.GUEST))
    (start,) = vm.given(*stopped).when(StartVm(vm="a", choice=choice(N1))).events
    assert isinstance(start, VmStartRequested) and start.generation == 3
