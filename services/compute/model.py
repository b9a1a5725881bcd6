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

from collections.abc import Sequence
from typing import assert_never, get_args

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
from services.compute import devices, growth, losing, migration, panics, reports, restored, space, starting
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
    match command, vm:
        case DefineVm(), Absent():
            return _define(command, vm)
        case DefineVm(), _:
            raise Refused(Refusal.ALREADY_DEFINED, f"{command.vm} exists", "take another name, or delete that VM first")
        case ReportVm(), _:
            return reports.report(command, vm)
        case (LoseVm() | ProtectVm() | RestartVm()), _:
            return losing.decide(command, vm)
        case AbandonStart(), _:
            return restored.abandon(command, vm)
        case ((NoteMemory() | NoteDevices() | NoteAllotment() | NoteResize()), Absent()):
            return ()
        case NoteAllotment(), _:
            return note(command, vm)
        case EndVm(), _:
            return panics.end(command, vm)
        case _, Absent():
            raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {command.vm}", "define it first")
        case NoteDevices(changed=True), _:
            return devices.note(command, vm)
        case SetAllotment(), (Migrating() | Arriving()):
            raise migration.busy(vm)
        case SetAllotment(), _:
            return allot(command, vm)
        case ResizeVm(), _:
            return growth.resize(command, vm)
        case NoteResize(), _:
            return growth.note(command, vm) if isinstance(vm, Running) else ()
        case MigrateVm(), _:
            return migration.migrate(command, vm)
        case CancelMigration(), _:
            return migration.cancel(command, vm)
        case StartVm(), _:
            return starting.begin(command, vm)
        case StopVm(), _:
            return _stop(command, vm)
        case ((PauseVm() | ResumeVm() | ResetVm()), (Migrating() | Arriving())):
            raise migration.busy(vm)
        case ((PauseVm() | ResumeVm() | ResetVm()), Running()):
            return _steer(command, vm)
        case ((PauseVm() | ResumeVm() | ResetVm()), _):
            raise Refused(Refusal.NOT_RUNNING, f"{command.vm} is {vm.word}", "start it and wait until it runs")
        case DeleteVm(), Stopped():
            restored.all_heard(command)
            return [VmDeleted(vm=vm.id, node=vm.node)]
        case DeleteVm(), _:
            raise Refused(Refusal.NOT_STOPPED, f"{command.vm} is {vm.word}", "stop it and wait until it has stopped")
        case ((NoteMemory() | NoteDevices()), Reserving()):
            return starting.note(command, vm)
        case ((NoteMemory() | NoteDevices()), Migrating()):
            return migration.note(command, vm)
        case NoteDevices(granted=True), Running():
            return starting.note_found(command, vm)
        case ((NoteMemory() | NoteDevices()), _):
            return ()


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
