"""A running VM moves to another node: given these events, when this command, then those. Across compute, memory and io too."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from libs.common.host.service import Order
from libs.common.messages import floor_of
from libs.common.testing import Given, Spec
from proto.compute import (
    DeleteVm,
    Filter,
    GoneCause,
    NoteDevices,
    NoteMemory,
    PauseVm,
    Placement,
    Refusal,
    Rejected,
    ReportVm,
    ResetVm,
    Seen,
    StartVm,
    StopVm,
    VmCommand,
    VmDevicesNoted,
    VmEvent,
    VmMemoryNoted,
    VmStarted,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.machine import DiskBus
from proto.migration import (
    CancelMigration,
    MigrateVm,
    VmIncomingGone,
    VmIncomingRequested,
    VmMigrated,
    VmMigrationEnded,
    VmMigrationFailed,
    VmMigrationRefused,
    VmMigrationRequested,
    VmRecallRequested,
    VmSendRequested,
    Way,
)
from proto.node import OrderVm, Want
from services.compute import migration
from services.compute.model import VM
from services.compute.react import orders
from services.compute.states import Arriving, Migrating, Phase, Running, Stopped
from services.io.devices import named_anew
from tests.model.test_compute import (
    DEFINED,
    DEVICES,
    DISKS,
    LAUNCHED,
    MEMORY,
    N1,
    N2,
    N3,
    NICS,
    PAUSE,
    PAUSED,
    REQUESTED,
    RESET,
    RUNNING,
    STARTED,
    STOP_REQUESTED,
    A,
    choice,
    report,
)

vm = Spec(VM)
AT = "unix:/there/own/incoming"
MIGRATE = MigrateVm(vm="a", choice=choice(N2, N3))
ASKED = VmMigrationRequested(
    vm=A, node=N1, generation=1, to=N2, incoming=2, memory_mib=256, vcpus=1, priority=DEFINED.priority,
    placement=choice(N2, N3), deadline_s=600, disks=DEFINED.disks, nics=DEFINED.nics,
)  # fmt: skip
SPEC = msgspec.structs.replace(LAUNCHED.spec, generation=2)
NOTED = VmMemoryNoted(vm=A, generation=2)
GRANTED = VmDevicesNoted(vm=A, generation=2, disks=DISKS, nics=NICS)
WAITING = VmIncomingRequested(vm=A, to=N2, spec=SPEC)
SEND = VmSendRequested(vm=A, node=N1, generation=1, to=N2, incoming=2, address=AT)
RECALL = VmRecallRequested(vm=A, node=N1, generation=1, incoming=2, sentence="it was cancelled")
LOST_TARGET = VmRecallRequested(vm=A, node=N1, generation=1, incoming=2, sentence="killed", target_gone=True)
FAILED = VmMigrationFailed(vm=A, node=N1, generation=1, to=N2, incoming=2, sentence="it was cancelled")
OVER = VmIncomingGone(vm=A, node=N2, generation=2, source=N1, source_generation=1)
MOVED = VmMigrated(vm=A, node=N2, generation=2, source=N1, source_generation=1, sent_mib=90, total_ms=700, paused_us=1_000_000)
ENDED = VmMigrationEnded(vm=A, node=N2, generation=2, boot_id="b", pcpus=(1,), downtime_ms=65, total_ms=700, sent_mib=90)

RESERVING = (*RUNNING, ASKED)
PREPARING = (*RESERVING, NOTED, GRANTED, WAITING)
SENDING = (*PREPARING, SEND)
RECALLING = (*SENDING, RECALL)
ALONE = (*SENDING, LOST_TARGET)
ENDING = (*RECALLING, FAILED)
ARRIVING = (*SENDING, MOVED)
THERE = (*ARRIVING, ENDED)
STAYED = (*ENDING, OVER)
HISTORIES: dict[str, tuple[VmEvent, ...]] = {
    "reserving": RESERVING,
    "memory noted": (*RESERVING, NOTED),
    "preparing": PREPARING,
    "sending": SENDING,
    "recalling": RECALLING,
    "target gone": ALONE,
    "ending": ENDING,
    "ending without a source": (*ENDING, msgspec.structs.replace(FAILED, source_gone=True, cause="crashed")),
    "arriving": ARRIVING,
    "there": THERE,
    "stayed": STAYED,
    "stopped after it": (*THERE, VmStopped(vm=A, node=N2, generation=2, cause=GoneCause.GUEST)),
    "stopped in spite of it": (*STAYED, VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.GUEST)),
}
LEFT: dict[str, Any] = {"cause": GoneCause.MIGRATED, "moved_to": 2, "sent_mib": 90, "total_ms": 700, "paused_us": 1_000_000}


def target(seen: Seen, **more: Any) -> ReportVm:
    return report(seen, 2, N2, **more)


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


# --- every command in every state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_every_command_is_answered_and_saying_it_twice_changes_nothing(history: tuple[VmEvent, ...]) -> None:
    for command in COMMANDS:
        first = vm.given(*history).when(command)
        after = VM.fold(first.events, first.before)
        again = Given(VM, after).when(command)
        assert not again.events, f"{command} twice: {again.events}"


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_states_survive_the_wire(history: tuple[VmEvent, ...]) -> None:
    state = VM.fold(history)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=VM.state) == state
    assert state.version == len(history)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_the_target_is_told_to_run_only_when_the_source_is_not(history: tuple[VmEvent, ...]) -> None:
    wanted = orders("vm-a", VM.fold(history), 7) or ()
    told = [wanted] if isinstance(wanted, Order) else wanted
    runs = [o.node for o in told if isinstance(o.message, OrderVm) and o.message.want in (Want.RUNNING, Want.MIGRATING)]
    assert len(runs) <= 1
    for order in told:
        assert isinstance(order.message, OrderVm)
        assert order.message.generation == (1 if order.node == N1 else 2)


# --- the way there ---------------------------------------------------------------------------------------------------


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


# --- never two -------------------------------------------------------------------------------------------------------


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


# --- it comes to nothing ---------------------------------------------------------------------------------------------


def test_denied_before_anything_was_ordered() -> None:
    said = msgspec.structs.replace(FAILED, sentence="full")
    denied = NoteMemory(vm="a", node=N2, generation=2, granted=False, sentence="full")
    vm.given(*RESERVING).when(denied).then(said, OVER).twice()
    (running, again) = (VM.fold(RUNNING), VM.fold((*RESERVING, said, OVER)))
    assert isinstance(again, Running) and again.given == 2
    assert msgspec.structs.replace(again, version=running.version, given=0) == running


def test_cancelled_at_each_step() -> None:
    cancel = CancelMigration(vm="a")
    vm.given(*RESERVING).when(cancel).then(FAILED, OVER)
    vm.given(*PREPARING).when(cancel).then(FAILED).twice()
    vm.given(*SENDING).when(cancel).then(RECALL).twice()
    vm.given(*ARRIVING).when(cancel).refused(Refusal.BUSY)
    vm.given(*RUNNING).when(cancel).refused(Refusal.NOT_MIGRATING)
    vm.given(*ENDING).when(target(Seen.GONE)).then(OVER).twice()


def test_the_target_is_lost() -> None:
    said = msgspec.structs.replace(FAILED, sentence="killed")
    vm.given(*PREPARING).when(target(Seen.FAILED, sentence="killed")).then(said, OVER)
    vm.given(*SENDING).when(target(Seen.GONE, sentence="killed")).then(LOST_TARGET).twice()
    vm.given(*ALONE).when(report(Seen.RUNNING)).then(said, OVER).twice()
    events = vm.given(*ALONE).when(report(Seen.GONE, **LEFT)).events
    assert [type(e) for e in events] == [VmMigrationFailed, VmIncomingGone, VmStopped]
    assert events[-1] == VmStopped(
        vm=A, node=N1, generation=1, cause=GoneCause.CRASHED,
        sentence="its memory was lost with the process that waited on n2", unwished=True,
    )  # fmt: skip


def test_the_source_is_lost_and_the_targets_end_is_waited_for() -> None:
    lost = msgspec.structs.replace(FAILED, sentence="power", source_gone=True, cause="unknown")
    gone = report(Seen.GONE, sentence="power")
    vm.given(*SENDING).when(gone).then(lost).twice()
    stopped = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.UNKNOWN, sentence="power", unwished=True)
    vm.given(*SENDING, lost).when(target(Seen.GONE)).then(OVER, stopped).twice()
    assert isinstance(VM.fold((*SENDING, lost, OVER, stopped)), Stopped)
    vm.given(*SENDING, lost).when(StopVm(vm="a")).refused(Refusal.BUSY)
    vm.given(*RESERVING).when(gone).then(lost, OVER, stopped)


def test_what_arrives_and_dies_is_stopped_there() -> None:
    vm.given(*ARRIVING).when(target(Seen.GONE, cause=GoneCause.CRASHED, sentence="oops")).then(
        VmStopped(vm=A, node=N2, generation=2, cause=GoneCause.CRASHED, sentence="oops", unwished=True)
    )


# --- after a restore -------------------------------------------------------------------------------------------------


def test_one_that_was_decided_before_the_restore_is_not_prepared() -> None:
    note = NoteMemory(vm="a", node=N2, generation=2, granted=True, incarnation=2)
    events = vm.given(*RESERVING).when(note).events
    assert [type(e) for e in events] == [VmMigrationFailed, VmIncomingGone]


def test_nodes_that_have_gone_on_end_a_restored_migration() -> None:
    """What is found then runs under a generation that the log had lost; nothing waits for those that are past."""
    later = floor_of(2) + 5
    heard: dict[str, Any] = {"incarnation": 3, "heard": 3}
    past = report(Seen.GONE, later, N1, **heard)
    events = vm.given(*RECALLING).when(past).events
    assert [type(e) for e in events] == [VmMigrationFailed, VmIncomingGone, VmStopped]
    there = report(Seen.RUNNING, later, N2, **heard)
    vm.given(*RECALLING).when(there).refused(Refusal.RECONCILING)
    lost = msgspec.structs.replace(FAILED, source_gone=True, cause="crashed")
    events = vm.given(*SENDING, lost).when(there).events
    assert [type(e).__name__ for e in events] == ["VmIncomingGone", "VmStopped", "VmFound"]
    vm.given(*RECALLING).when(report(Seen.INCOMING, later, N3, **heard)).refused(Refusal.NOT_YOURS)


def test_the_histories_lead_where_they_say() -> None:
    phases = {"reserving": Phase.RESERVING, "preparing": Phase.PREPARING, "sending": Phase.SENDING}
    for name, phase in phases.items():
        state = VM.fold(HISTORIES[name])
        assert isinstance(state, Migrating) and state.phase is phase and state.spec == SPEC
    assert isinstance(VM.fold(ARRIVING), Arriving)
    assert VM.fold((DEFINED, REQUESTED, MEMORY, DEVICES, LAUNCHED, STARTED)) == VM.fold(RUNNING)
    assert isinstance(STARTED, VmStarted)


def test_a_planned_move_that_is_refused_says_so_in_the_log() -> None:
    none = Placement(policy="p", rejected=(Rejected(node=N2, filter=Filter.CORDONED),))
    planned = msgspec.structs.replace(MIGRATE, node="n2", choice=none, planned=True)
    (no,) = vm.given(*RUNNING).when(planned).events
    assert isinstance(no, VmMigrationRefused) and (no.to, no.refusal) == ("n2", "NO_NODE_FITS")
    assert no.sentence == "no node fits: cordoned: n2" and no.remedy == "uncordon n2"
    before, after = vm.given(*RUNNING).state, vm.given(*RUNNING, no).state
    assert after == msgspec.structs.replace(before, version=before.version + 1)
    (stopped,) = vm.given(DEFINED).when(planned).events
    assert isinstance(stopped, VmMigrationRefused) and stopped.refusal == "NOT_RUNNING"
    (there,) = vm.given(*RUNNING).when(msgspec.structs.replace(planned, node="n1")).events
    assert isinstance(there, VmMigrationRefused) and there.sentence == "a is on n1 already"
    vm.given(*RUNNING).when(msgspec.structs.replace(planned, planned=False)).refused(Refusal.NO_NODE_FITS)
    vm.given().when(planned).refused(Refusal.NOT_DEFINED)
    vm.given(*RUNNING).when(msgspec.structs.replace(MIGRATE, planned=True)).then(ASKED)


# --- disks that go along ---------------------------------------------------------------------------------------------

WAY = Way(node="n2", copied={"default": "n1s"}, copy_mib=4096, source_key="s", target_key="t")
ASKED_ALONG = msgspec.structs.replace(ASKED, way=WAY, deadline_s=600 + 4096 // migration.COPIED_MIB_PER_S)
ALONG_DISKS = tuple(named_anew("a", disk, 2, "n2s") for disk in DISKS)
GRANTED_ALONG = msgspec.structs.replace(GRANTED, disks=ALONG_DISKS)
WAITING_ALONG = msgspec.structs.replace(WAITING, spec=msgspec.structs.replace(WAITING.spec, disks=ALONG_DISKS))
ALONG = (*RUNNING, ASKED_ALONG, NOTED, GRANTED_ALONG, WAITING_ALONG, SEND)


def test_disks_that_the_target_does_not_reach_go_along() -> None:
    command = msgspec.structs.replace(MIGRATE, ways=(Way(node="n3"), WAY))
    vm.given(*RUNNING).when(command).then(ASKED_ALONG)
    granted = NoteDevices(vm="a", node=N2, generation=2, granted=True, disks=ALONG_DISKS, nics=NICS)
    vm.given(*RUNNING, ASKED_ALONG, NOTED).when(granted).then(GRANTED_ALONG, WAITING_ALONG)
    source, target_ = (order.message for order in told(ALONG))
    assert isinstance(source, OrderVm) and isinstance(target_, OrderVm)
    assert (source.copied, source.peer_key, target_.copied, target_.peer_key) == (WAY.copied, "t", WAY.copied, "s")
    assert source.spec is not None and target_.spec is not None
    assert (source.spec.disks, target_.spec.disks) == (DISKS, ALONG_DISKS)


def test_the_source_is_told_which_disks_go_whole() -> None:
    bare = tuple(msgspec.structs.replace(disk, image="") for disk in ALONG_DISKS)
    granted, waiting = msgspec.structs.replace(GRANTED, disks=bare), msgspec.structs.replace(WAITING, spec=SPEC)
    source, _ = (order.message for order in told((*RUNNING, ASKED_ALONG, NOTED, granted, waiting, SEND)))
    assert isinstance(source, OrderVm) and source.whole == tuple(disk.name for disk in DISKS if disk.image) != ()
    source, _ = (order.message for order in told(ALONG))
    assert isinstance(source, OrderVm) and source.whole == ()


def test_where_a_guest_runs_it_has_the_disks_of_that_node() -> None:
    state = VM.fold((*ALONG, MOVED, ENDED))
    assert isinstance(state, Running) and state.spec.disks == ALONG_DISKS
    state = VM.fold((*ALONG, RECALL, FAILED, OVER))
    assert isinstance(state, Running) and state.spec.disks == DISKS


def told(history: tuple[VmEvent, ...]) -> tuple[Order, ...]:
    """What the agents are ordered."""
    wanted = orders("vm-a", VM.fold(history), len(history))
    return tuple(wanted) if isinstance(wanted, (list, tuple)) else ()
