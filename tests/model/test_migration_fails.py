"""A migration that comes to nothing, that is told of after a restore, or whose disks go along."""

from __future__ import annotations

from typing import Any

import msgspec

from libs.common.host.service import Order
from libs.common.messages import floor_of
from proto.compute import (
    Filter,
    GoneCause,
    NoteDevices,
    NoteMemory,
    Placement,
    Refusal,
    Rejected,
    Seen,
    StopVm,
    VmEvent,
    VmStarted,
    VmStopped,
)
from proto.migration import (
    CancelMigration,
    VmIncomingGone,
    VmMigrationFailed,
    VmMigrationRefused,
    Way,
)
from proto.node import OrderVm
from services.compute import migration
from services.compute.model import VM
from services.compute.react import orders
from services.compute.states import Arriving, Migrating, Phase, Running, Stopped
from services.io.devices import named_anew
from tests.model.compute_story import (
    DEFINED,
    DEVICES,
    DISKS,
    LAUNCHED,
    MEMORY,
    N1,
    N2,
    N3,
    NICS,
    REQUESTED,
    RUNNING,
    STARTED,
    A,
    report,
)
from tests.model.migration_story import (
    ALONE,
    ARRIVING,
    ASKED,
    ENDED,
    ENDING,
    FAILED,
    GRANTED,
    HISTORIES,
    LEFT,
    LOST_TARGET,
    MIGRATE,
    MOVED,
    NOTED,
    OVER,
    PREPARING,
    RECALL,
    RECALLING,
    RESERVING,
    SEND,
    SENDING,
    SPEC,
    WAITING,
    target,
    vm,
)


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
