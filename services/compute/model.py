"""The life of one VM (stream `vm-NAME`). Pure.

              define            start             memory and devices       seen running
    Absent ──────────▶ Stopped ───────▶ Reserving ──────────────▶ Launching ───────────▶ Running ⟲ pause, resume, reset
       ▲                │  ▲  ▲             │  └─ denied: next node ─┘ │                   │  │
       └──── delete ────┘  │  └─────────────┘   (generation + 1)       └─▶ Stopping ◀─stop─┘  │
                           └────────── seen gone ───────────────────────────┘◀────────────────┘

Asked is not seen: only a report of the node and generation that the log names turns a wish into a fact. An older report changes
nothing; where it speaks of a process that still runs, it is refused as NOT_YOURS, upon which the agent ends that process.
FAILED and GONE are final for a generation: no process will come under it.
A stop before the launch ends the start at once, for no agent was ordered yet; one during the launch is seen through.
Moving to another node while it runs (Migrating, Arriving) is in migration.py; what becomes of it when its node is lost, and how it
is started by its guard, in losing.py.
After a restore of the database some of it is lost: what is found then, and when a start may be decided again, is in restored.py.
Every state counts the events of its stream (`version`), so that a report that is older than the last wish is known as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, assert_never, get_args

from libs.common.decider import Decider, Refused
from proto.compute import (
    AbandonStart,
    DefineVm,
    DeleteVm,
    EndVm,
    GoneCause,
    LoseVm,
    NoteAllotment,
    NoteDevices,
    NoteMemory,
    PauseVm,
    PrepareRecovery,
    ProtectVm,
    Refusal,
    ReportVm,
    ResetVm,
    RestartVm,
    ResumeVm,
    SetAllotment,
    StartVm,
    StopVm,
    VmCommand,
    VmDeleted,
    VmEvent,
    VmLeftStopped,
    VmPauseRequested,
    VmResetRequested,
    VmResumeRequested,
    VmStartFailed,
    VmStopRequested,
)
from proto.growth import NoteResize, ResizeVm
from proto.migration import CancelMigration, MigrateVm
from proto.space import said
from services.compute import devices, growth, losing, migration, panics, recovering, reports, restored, space, starting
from services.compute.allot import allot, note
from services.compute.evolving import evolve
from services.compute.shape import defined
from services.compute.states import (
    Absent,
    Arriving,
    Defined,
    Launching,
    Migrating,
    Reserving,
    Running,
    Stopped,
    Stopping,
    Vm,
)


def decide(command: VmCommand, vm: Vm) -> Sequence[VmEvent]:
    """By the command's class: a ladder of cases would look at a dozen of them first."""
    kind = type(command)
    does = OF_ABSENT.get(kind, _unknown) if type(vm) is Absent else DECIDES[kind]
    return does(command, vm)


def _unknown(command: VmCommand, vm: Vm) -> Sequence[VmEvent]:
    raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {command.vm}", "define it first")


def _nothing(command: VmCommand, vm: Vm) -> Sequence[VmEvent]:
    return ()


def _defined_already(command: DefineVm, vm: Defined) -> Sequence[VmEvent]:
    raise Refused(Refusal.ALREADY_DEFINED, f"{command.vm} exists", "take another name, or delete that VM first")


def _abandon(command: AbandonStart, vm: Vm) -> Sequence[VmEvent]:
    return restored.abandon(command, vm)


def _allot(command: SetAllotment, vm: Defined) -> Sequence[VmEvent]:
    if isinstance(vm, Migrating | Arriving):
        raise migration.busy(vm)
    return allot(command, vm)


def _steered(command: PauseVm | ResumeVm | ResetVm, vm: Defined) -> Sequence[VmEvent]:
    if isinstance(vm, Migrating | Arriving):
        raise migration.busy(vm)
    if not isinstance(vm, Running):
        raise Refused(Refusal.NOT_RUNNING, f"{command.vm} is {vm.word}", "start it and wait until it runs")
    return _steer(command, vm)


def _delete(command: DeleteVm, vm: Defined) -> Sequence[VmEvent]:
    if not isinstance(vm, Stopped):
        raise Refused(Refusal.NOT_STOPPED, f"{command.vm} is {vm.word}", "stop it and wait until it has stopped")
    restored.all_heard(command)
    return [VmDeleted(vm=vm.id, node=vm.node)]


def _devices(command: NoteDevices, vm: Defined) -> Sequence[VmEvent]:
    if command.changed:
        return devices.note(command, vm)
    if command.granted and isinstance(vm, Running):
        return starting.note_found(command, vm)
    return _note(command, vm)


def _note(command: NoteMemory | NoteDevices, vm: Defined) -> Sequence[VmEvent]:
    match vm:
        case Reserving():
            return starting.note(command, vm)
        case Migrating():
            return migration.note(command, vm)
        case _:
            return ()


def _resized(command: NoteResize, vm: Defined) -> Sequence[VmEvent]:
    return growth.note(command, vm) if isinstance(vm, Running) else ()


def _define(command: DefineVm, vm: Absent) -> Sequence[VmEvent]:
    if vm.stranger:
        raise Refused(
            Refusal.ALREADY_DEFINED,
            f"a VM named {command.vm} runs on {vm.stranger}, though its definition was lost when the database was restored",
            "take another name, or shut that VM down from inside first",
        )
    return [defined(command, vm.generation)]


def _stop(command: StopVm, vm: Defined) -> Sequence[VmEvent]:
    match vm:
        case Stopped():
            left = VmLeftStopped(vm=vm.id, node=vm.node, generation=vm.generation)
            return [left] if vm.unwished else ()
        case Reserving():
            sentence, tried = "stopped before it was launched", (*vm.tried, vm.node)
            failed = VmStartFailed(vm=vm.id, node=vm.node, generation=vm.generation, sentence=sentence, tried=tried)
            left = VmLeftStopped(vm=vm.id, node=vm.node, generation=vm.generation)
            return [failed, left] if vm.attempt or vm.unwished else [failed]
        case Stopping() if command.deadline_s >= vm.deadline_s and vm.cause is GoneCause.ORDERED:
            return ()
        case Migrating() | Arriving():
            return migration.stop(command, vm)
        case Launching() | Running() | Stopping():
            deadline_s = min(command.deadline_s, vm.deadline_s) if isinstance(vm, Stopping) else command.deadline_s
            return [VmStopRequested(vm=vm.id, node=vm.node, generation=vm.generation, deadline_s=deadline_s)]
        case _:
            assert_never(vm)


def _steer(command: PauseVm | ResumeVm | ResetVm, vm: Running) -> Sequence[VmEvent]:
    match command:
        case PauseVm():
            pause = VmPauseRequested(vm=vm.id, generation=vm.generation, stilled=command.stilled)
            return () if vm.pause_wanted else [pause]
        case ResumeVm() if vm.pause_wanted:
            return [VmResumeRequested(vm=vm.id, generation=vm.generation)]
        case ResumeVm() if vm.paused:
            return ()
        case ResumeVm() if vm.full:
            raise Refused(Refusal.NOT_PAUSED, f"nobody paused {vm.id}: {said(vm.full)}", space.REMEDY)
        case ResumeVm():
            raise Refused(Refusal.NOT_PAUSED, f"{command.vm} is running", "only a paused VM can be resumed")
        case ResetVm():
            pending = vm.resets_wanted > vm.resets
            return () if pending else [VmResetRequested(vm=vm.id, generation=vm.generation, resets=vm.resets + 1)]


type Decides = dict[type, Callable[[Any, Any], Sequence[VmEvent]]]

ANYWAY: Decides = {
    ReportVm: reports.report,
    LoseVm: losing.decide,
    ProtectVm: losing.decide,
    RestartVm: losing.decide,
    AbandonStart: _abandon,
    EndVm: panics.end,
    PrepareRecovery: recovering.prepare,
}
"""whether it is defined or not"""
OF_ABSENT: Decides = {
    **ANYWAY,
    **dict.fromkeys((NoteMemory, NoteDevices, NoteAllotment, NoteResize), _nothing),
    DefineVm: _define,
}
DECIDES: Decides = {
    **ANYWAY,
    **dict.fromkeys((PauseVm, ResumeVm, ResetVm), _steered),
    DefineVm: _defined_already,
    DeleteVm: _delete,
    StartVm: starting.begin,
    StopVm: _stop,
    NoteMemory: _note,
    NoteDevices: _devices,
    NoteAllotment: note,
    NoteResize: _resized,
    SetAllotment: _allot,
    ResizeVm: growth.resize,
    MigrateVm: migration.migrate,
    CancelMigration: migration.cancel,
}

VM: Decider[VmCommand, Vm, VmEvent] = Decider(
    kind="vm",
    commands=get_args(VmCommand),
    events=get_args(VmEvent),
    state=Vm,
    key=lambda command: command.vm,
    initial=Absent(),
    decide=decide,
    evolve=evolve,
)
