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
Moving to another node while it runs (Migrating, Arriving) is in migration.py.
After a restore of the database some of it is lost: what is found then, and when a start may be decided again, is in restored.py.
Every state counts the events of its stream (`version`), so that a report that is older than the last wish is known as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId
from proto.compute import (
    AbandonStart,
    DefineVm,
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
    ResumeVm,
    Seen,
    SetAllotment,
    StartVm,
    StopVm,
    VmCommand,
    VmDeleted,
    VmDevicesNoted,
    VmEvent,
    VmLaunchRequested,
    VmMemoryNoted,
    VmPaused,
    VmPauseRequested,
    VmReset,
    VmResetRequested,
    VmResumed,
    VmResumeRequested,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.machine import ALL_BY_CLASS, MachineSpec
from proto.migration import CancelMigration, MigrateVm
from services.compute import migration, restored
from services.compute.allot import allot
from services.compute.policy import ATTEMPTS_MAX
from services.compute.reasons import explain
from services.compute.shape import defined
from services.compute.states import (
    Absent,
    Arriving,
    Defined,
    Devices,
    Launching,
    Migrating,
    Reserving,
    Running,
    Stopped,
    Stopping,
    Vm,
    evolve,
)


def decide(command: VmCommand, vm: Vm) -> Sequence[VmEvent]:
    match command, vm:
        case DefineVm(), Absent():
            return _define(command, vm)
        case DefineVm(), _:
            raise Refused(Refusal.ALREADY_DEFINED, f"{command.vm} exists", "take another name, or delete that VM first")
        case ReportVm(), _:
            return _report(command, vm)
        case AbandonStart(), _:
            return restored.abandon(command, vm)
        case ((NoteMemory() | NoteDevices()), Absent()):
            return ()
        case _, Absent():
            raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {command.vm}", "define it first")
        case SetAllotment(), (Migrating() | Arriving()):
            raise migration.busy(vm)
        case SetAllotment(), _:
            return allot(command, vm)
        case MigrateVm(), _:
            return migration.migrate(command, vm)
        case CancelMigration(), _:
            return migration.cancel(command, vm)
        case StartVm(), _:
            return _start(command, vm)
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
            return _note(command, vm)
        case ((NoteMemory() | NoteDevices()), Migrating()):
            return migration.note(command, vm)
        case NoteDevices(granted=True), Running():
            return _note_found(command, vm)
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


def _start(command: StartVm, vm: Defined) -> Sequence[VmEvent]:
    match vm:
        case Stopped():
            restored.all_heard(command)
            choice = command.choice
            if choice is None:
                said = f"{command.vm} was defined a moment ago and placement has not heard of it yet"
                raise Refused(Refusal.BUSY, said, "ask again")
            if not choice.candidates:
                sentence, remedy = explain(choice, command.node)
                raise Refused(Refusal.NO_NODE_FITS, sentence, remedy)
            return [_start_requested(vm, choice, command.incarnation)]
        case Reserving() | Launching() | Running() | Migrating() | Arriving():
            return ()
        case Stopping():
            raise Refused(Refusal.BUSY, f"{command.vm} is being stopped", "wait until it has stopped, then start it")
        case _:
            assert_never(vm)


def _start_requested(vm: Stopped | Reserving | Launching, choice: Placement, incarnation: int) -> VmStartRequested:
    wanted = vm.definition
    return VmStartRequested(
        vm=vm.id,
        node=choice.candidates[0].node,
        generation=restored.next_generation(vm, incarnation),
        memory_mib=wanted.shape.memory_mib,
        vcpus=wanted.shape.vcpus,
        priority=wanted.priority,
        placement=choice,
        disks=wanted.disks,
        nics=wanted.nics,
        allotment=ALL_BY_CLASS if wanted.allotment == ALL_BY_CLASS else wanted.allotment,
    )


def _fail(
    vm: Reserving | Launching, sentence: str, incarnation: int, fresh: Placement | None = None
) -> Sequence[VmEvent]:
    """This start came to nothing on that node: give back, and ask the next candidate while there is one. One that was decided
    before the database was restored is not gone on with: its VM may run elsewhere by now."""
    tried = (*vm.tried, vm.node)
    failed = VmStartFailed(vm=vm.id, node=vm.node, generation=vm.generation, sentence=sentence, tried=tried)
    choice = _without(fresh or vm.placement, tried)
    if len(tried) >= ATTEMPTS_MAX or not choice.candidates or restored.past(vm.generation, incarnation):
        return [failed]
    return [failed, _start_requested(vm, choice, incarnation)]


def _without(placement: Placement, tried: Sequence[NodeId]) -> Placement:
    """The placement with every tried node among the rejected: from there the next attempt knows them."""
    marked = tuple(Rejected(node=n, filter=Filter.TRIED) for n in tried)
    return replace(
        placement,
        candidates=tuple(c for c in placement.candidates if c.node not in tried),
        rejected=tuple(r for r in placement.rejected if r.node not in tried) + marked,
    )


def _stop(command: StopVm, vm: Defined) -> Sequence[VmEvent]:
    match vm:
        case Stopped():
            return ()
        case Reserving():
            sentence, tried = "stopped before it was launched", (*vm.tried, vm.node)
            return [VmStartFailed(vm=vm.id, node=vm.node, generation=vm.generation, sentence=sentence, tried=tried)]
        case Stopping() if command.deadline_s >= vm.deadline_s:
            return ()
        case Migrating() | Arriving():
            return migration.stop(command, vm)
        case Launching() | Running() | Stopping():
            return [VmStopRequested(vm=vm.id, node=vm.node, generation=vm.generation, deadline_s=command.deadline_s)]
        case _:
            assert_never(vm)


def _steer(command: PauseVm | ResumeVm | ResetVm, vm: Running) -> Sequence[VmEvent]:
    match command:
        case PauseVm():
            return () if vm.pause_wanted else [VmPauseRequested(vm=vm.id, generation=vm.generation)]
        case ResumeVm() if vm.pause_wanted:
            return [VmResumeRequested(vm=vm.id, generation=vm.generation)]
        case ResumeVm() if vm.paused:
            return ()
        case ResumeVm():
            raise Refused(Refusal.NOT_PAUSED, f"{command.vm} is running", "only a paused VM can be resumed")
        case ResetVm():
            pending = vm.resets_wanted > vm.resets
            return () if pending else [VmResetRequested(vm=vm.id, generation=vm.generation, resets=vm.resets + 1)]


def _note(command: NoteMemory | NoteDevices, vm: Reserving) -> Sequence[VmEvent]:
    if command.generation != vm.generation or command.node != vm.node:
        return ()
    if restored.past(vm.generation, command.incarnation):
        return [restored.abandoned(vm)]
    match command:
        case NoteMemory() if vm.memory_noted:
            return ()
        case NoteDevices() if vm.devices is not None:
            return ()
        case NoteMemory(granted=False):
            return _fail(vm, command.sentence, command.incarnation, command.choice)
        case NoteDevices(granted=False):
            return _fail(vm, command.sentence, command.incarnation)
        case NoteMemory():
            noted: VmEvent = VmMemoryNoted(vm=vm.id, generation=vm.generation)
            return [noted] if vm.devices is None else [noted, _launch(vm, vm.devices)]
        case NoteDevices():
            devices = Devices(disks=command.disks, nics=command.nics)
            noted = VmDevicesNoted(vm=vm.id, generation=vm.generation, disks=devices.disks, nics=devices.nics)
            return [noted, _launch(vm, devices)] if vm.memory_noted else [noted]


def _note_found(command: NoteDevices, vm: Running) -> Sequence[VmEvent]:
    """The devices of a VM that was found running."""
    same = (vm.spec.disks, vm.spec.nics) == (command.disks, command.nics)
    if same or command.generation != vm.generation or command.node != vm.node:
        return ()
    return [VmDevicesNoted(vm=vm.id, generation=vm.generation, disks=command.disks, nics=command.nics)]


def _launch(vm: Reserving, devices: Devices) -> VmLaunchRequested:
    wanted = vm.definition
    spec = MachineSpec(
        vm=vm.id,
        generation=vm.generation,
        shape=wanted.shape,
        disks=devices.disks,
        nics=devices.nics,
        boot=wanted.boot,
        boot_image=wanted.boot_image,
        priority=wanted.priority,
        allotment=wanted.allotment,
    )
    return VmLaunchRequested(vm=vm.id, node=vm.node, spec=spec)


def _report(fact: ReportVm, vm: Vm) -> Sequence[VmEvent]:
    told = restored.report(fact, vm)
    if told is not None:
        return told
    if isinstance(vm, Migrating) and migration.is_target(fact, vm):
        return migration.report_target(fact, vm)
    alive = fact.seen not in (Seen.GONE, Seen.FAILED)
    past = fact.generation < vm.generation or vm.generation < fact.generation <= vm.given
    if past or isinstance(vm, Absent):
        return _ended(fact) if alive and fact.generation <= vm.highest else ()
    if fact.generation > vm.generation or fact.node != vm.node:
        raise Refused(
            Refusal.NOT_PERMITTED,
            f"{fact.node} reports generation {fact.generation} of {fact.vm}; "
            f"the log names generation {vm.generation} on {vm.node or 'no node'}",
            "report only what was ordered of this node",
        )
    match vm:
        case Stopped():
            return _ended(fact) if alive else ()
        case Reserving():
            return ()
        case Launching():
            return _report_launching(fact, vm)
        case Running():
            return _report_running(fact, vm)
        case Stopping():
            return () if alive else [_stopped(fact, vm)]
        case Migrating():
            resets = _resets(fact, vm.running) if alive else ()
            return [*resets, *migration.report_source(fact, vm)]
        case Arriving():
            return migration.report_arriving(fact, vm)
        case _:
            assert_never(vm)


def _ended(fact: ReportVm) -> Sequence[VmEvent]:
    """A generation beyond the log's is never answered so: after a restore the log may be the older of the two."""
    raise Refused(
        Refusal.NOT_YOURS, f"generation {fact.generation} of {fact.vm} has ended", f"end its process on {fact.node}"
    )


def _report_launching(fact: ReportVm, vm: Launching) -> Sequence[VmEvent]:
    started = VmStarted(vm=vm.id, node=vm.node, generation=vm.generation, boot_id=fact.boot_id, pcpus=fact.pcpus)
    match fact.seen:
        case Seen.RUNNING | Seen.PAUSED:
            return [started]
        case Seen.INCOMING:
            return ()
        case Seen.GONE if fact.cause is GoneCause.GUEST:
            return [started, _stopped(fact, vm)]  # it ran so briefly that its end was the first thing heard
        case Seen.GONE | Seen.FAILED:
            said = fact.sentence or f"no process came up on {vm.node} ({fact.cause})"
            return _fail(vm, said, fact.incarnation)


def _report_running(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    if fact.seen in (Seen.GONE, Seen.FAILED):
        return [_stopped(fact, vm)]
    events = [*_resets(fact, vm)]
    if fact.order_version >= vm.asked_version:
        if vm.pause_wanted and not vm.paused and fact.seen is Seen.PAUSED:
            events.append(VmPaused(vm=vm.id, generation=vm.generation))
        if vm.paused and not vm.pause_wanted and fact.seen is Seen.RUNNING:
            events.append(VmResumed(vm=vm.id, generation=vm.generation))
    return events


def _resets(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    lost = restored.past(vm.generation, fact.incarnation)  # resets that a restored log does not know of
    resets = fact.resets if lost else min(fact.resets, vm.resets_wanted)
    return [VmReset(vm=vm.id, generation=vm.generation, resets=resets)] if resets > vm.resets else ()


def _stopped(fact: ReportVm, vm: Launching | Running | Stopping) -> VmStopped:
    return VmStopped(vm=vm.id, node=vm.node, generation=vm.generation, cause=fact.cause, sentence=fact.sentence)


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
