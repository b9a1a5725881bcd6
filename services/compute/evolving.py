"""How events lead a VM from one state to the next. Pure; the machine is drawn in model.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import force_setattr, replace

from libs.common.messages import NodeId
from proto.compute import (
    VmAllotmentDenied,
    VmAllotmentRequested,
    VmAllotted,
    VmDefined,
    VmDeleted,
    VmDevicesNoted,
    VmEvent,
    VmFound,
    VmGuarded,
    VmGuardRequested,
    VmLaunchRequested,
    VmLeftStopped,
    VmMemoryNoted,
    VmPaused,
    VmPauseRequested,
    VmRecoveryPrepared,
    VmReset,
    VmResetRequested,
    VmResumed,
    VmResumeRequested,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
    VmStrangerGone,
    VmStrangerSeen,
)
from proto.growth import VmReshaped
from proto.hardware import ordered
from proto.machine import MachineSpec
from proto.migration import (
    VmIncomingGone,
    VmIncomingRequested,
    VmMigrated,
    VmMigrationEnded,
    VmMigrationFailed,
    VmMigrationRequested,
    VmRecallRequested,
    VmSendRequested,
)
from proto.panics import VmPanicked, VmPanicOver
from proto.space import VmRanOutOfSpace, VmSpaceRegained
from services.compute import devices, drifting, growth, panics, recovering, space
from services.compute.states import (
    Absent,
    Arriving,
    Defined,
    Devices,
    Launching,
    Migrating,
    Phase,
    Placed,
    Reserving,
    Running,
    Stopped,
    Stopping,
    Vm,
)


def evolve(vm: Vm, event: VmEvent) -> Vm:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    kind, state = type(event), type(vm)
    does = BY_EVENT.get(kind) if state is not Absent else OF_ABSENT.get(kind)
    if does is None:
        does = BY_STATE.get((state, kind), _unmoved)
    after = does(vm, event)
    version, given = vm.version + 1, 0
    if vm.given or after.given or vm.generation > after.generation:
        highest = max(vm.generation, vm.given, after.generation, after.given)
        given = highest if highest > after.generation else 0
    if after is vm:
        return replace(after, given=given, version=version)
    if after.given != given:  # made just now: nobody else has it
        force_setattr(after, "given", given)
    force_setattr(after, "version", version)
    return after


def _unmoved(vm: Vm, event: VmEvent) -> Vm:
    return vm


def _defined(vm: Vm, event: VmDefined) -> Vm:
    return Stopped(definition=event, generation=vm.generation)


def _deleted(vm: Vm, event: VmDeleted) -> Vm:
    return Absent(generation=vm.generation)


def _stranger(vm: Vm, event: VmStrangerSeen | VmStrangerGone) -> Vm:
    node = event.node if type(event) is VmStrangerSeen else NodeId("")
    return Absent(generation=max(vm.generation, event.generation), stranger=node)


def _reshaped(vm: Defined, event: VmReshaped) -> Vm:
    return replace(vm, definition=replace(vm.definition, shape=event.shape))


def _allotted(vm: Defined, event: VmAllotted) -> Vm:
    definition = replace(vm.definition, priority=event.priority, allotment=event.allotment)
    if type(vm) is Running:
        return replace(vm, definition=definition, wish=None)
    return replace(vm, definition=definition)


def _failed(vm: Defined, event: VmStartFailed) -> Vm:
    """A start that its guard asked for leaves it as it was: it is to run. So does one that somebody made of such a VM."""
    state = type(vm)
    again = (state is Reserving or state is Launching) and (vm.attempt > 0 or vm.unwished)  # type: ignore[union-attr]
    return Stopped(
        definition=vm.definition, generation=vm.generation, node=event.node, sentence=event.sentence,
        abandoned=event.abandoned, unwished=again,
    )  # fmt: skip


def _ended(vm: Defined, event: VmStopped) -> Vm:
    return Stopped(
        definition=vm.definition, generation=vm.generation, node=event.node, sentence=event.sentence, unwished=event.unwished
    )


def _stopping(vm: Defined, event: VmStopRequested) -> Vm:
    return Stopping(
        definition=vm.definition, generation=vm.generation, node=event.node, deadline_s=event.deadline_s,
        cause=event.cause, protected=_covered(vm),
    )  # fmt: skip


def _covered(vm: Vm) -> bool:
    """Its process, by the lease of its node."""
    state = type(vm)
    if state is Running:
        return vm.covered  # type: ignore[union-attr]
    return (state is Launching or state is Arriving) and vm.spec.protected  # type: ignore[union-attr]


def _asked(vm: Defined, event: VmStartRequested) -> Vm:
    return Reserving(
        definition=vm.definition,
        generation=max(vm.generation, event.generation),
        node=event.node,
        placement=event.placement,
        attempt=event.attempt,
        failover=event.failover,
        unwished=type(vm) is Stopped and vm.unwished,
    )


def _memory(vm: Defined, event: VmMemoryNoted) -> Vm:
    state = type(vm)
    return replace(vm, memory_noted=True) if state is Reserving or state is Migrating else vm


def _devices(vm: Defined, event: VmDevicesNoted) -> Vm:
    state = type(vm)
    if event.changed:
        return devices.evolve(vm, event)
    if state is Reserving or state is Migrating:
        return replace(vm, devices=Devices(disks=event.disks, nics=event.nics, protected=event.protected))
    if type(vm) is Running:
        return replace(vm, spec=replace(vm.spec, disks=event.disks, nics=event.nics))
    return vm


def _launched(vm: Defined, event: VmLaunchRequested) -> Vm:
    if type(vm) is not Reserving:
        return vm
    return Launching(
        definition=vm.definition,
        generation=vm.generation,
        node=event.node,
        placement=vm.placement,
        spec=event.spec,
        attempt=vm.attempt,
        failover=vm.failover,
        unwished=vm.unwished,
    )


def _started(vm: Defined, event: VmStarted) -> Vm:
    if type(vm) is not Launching:
        return vm
    return Running(
        definition=vm.definition,
        generation=vm.generation,
        node=event.node,
        spec=vm.spec,
        boot_id=event.boot_id,
        pcpus=event.pcpus,
        hardware=None if vm.changed else ordered(vm.spec),
        epoch=event.epoch,
    )


def _moving(vm: Running, event: VmMigrationRequested) -> Migrating:
    return Migrating(
        definition=vm.definition,
        generation=vm.generation,
        given=event.incoming,
        node=vm.node,
        running=vm,
        to=event.to,
        incoming=event.incoming,
        placement=event.placement,
        deadline_s=event.deadline_s,
        way=event.way,
    )


def _moved(vm: Migrating, event: VmMigrated) -> Arriving:
    return Arriving(
        definition=vm.definition,
        generation=event.generation,
        node=event.node,
        spec=vm.spec,
        pause_wanted=vm.running.pause_wanted,
        stilled=vm.running.stilled,
        boot_id=vm.running.boot_id,
        sent_mib=event.sent_mib,
        total_ms=event.total_ms,
        paused_us=event.paused_us,
    )


def _arrived(vm: Arriving, event: VmMigrationEnded) -> Running:
    """Resets are counted anew in each generation."""
    return Running(
        definition=vm.definition,
        generation=vm.generation,
        node=vm.node,
        spec=vm.spec,
        boot_id=event.boot_id or vm.boot_id,
        pcpus=event.pcpus,
        pause_wanted=vm.pause_wanted,
        stilled=vm.stilled,
        paused=vm.pause_wanted,
        asked_version=vm.version + 1,
        hardware=ordered(vm.spec),
        epoch=event.epoch,
    )


def _preparing(vm: Migrating, event: VmIncomingRequested) -> Migrating:
    return replace(vm, phase=Phase.PREPARING, protected=event.spec.protected)


def _sending(vm: Migrating, event: VmSendRequested) -> Migrating:
    return replace(vm, phase=Phase.SENDING, address=event.address, asked_version=vm.version + 1)


def _recalled(vm: Migrating, event: VmRecallRequested) -> Migrating:
    gone = vm.target_gone or event.target_gone
    return replace(vm, phase=Phase.RECALLING, sentence=event.sentence, target_gone=gone, asked_version=vm.version + 1)


def _not_moved(vm: Migrating, event: VmMigrationFailed) -> Migrating:
    return replace(vm, phase=Phase.ENDING, sentence=event.sentence, source_gone=event.source_gone, cause=event.cause)


def _target_gone(vm: Migrating, event: VmIncomingGone) -> Migrating | Running:
    return vm if vm.source_gone else replace(vm.running, definition=vm.definition)


def _reset_on_the_way(vm: Migrating, event: VmReset) -> Migrating:
    return replace(vm, running=_reset(vm.running, event))


def _found(vm: Stopped | Placed, event: VmFound) -> Running:
    """Its devices follow once io has granted them. Whether it is guarded is not known, so no lease proves anything of it."""
    wanted = replace(vm.definition, disks=event.disks, nics=event.nics)
    spec = MachineSpec(
        vm=event.vm, generation=event.generation, shape=wanted.shape, boot=wanted.boot,
        boot_image=wanted.boot_image, priority=wanted.priority, protected=False,
    )  # fmt: skip
    return Running(
        definition=wanted,
        generation=max(vm.generation, event.generation),
        node=event.node,
        spec=spec,
        boot_id=event.boot_id,
        pcpus=event.pcpus,
        resets_wanted=event.resets,
        resets=event.resets,
    )


def _reset(vm: Running, event: VmReset) -> Running:
    return replace(vm, resets=event.resets, resets_wanted=max(vm.resets_wanted, event.resets))


def _pausing(vm: Running, event: VmPauseRequested) -> Running:
    return replace(vm, pause_wanted=True, stilled=event.stilled, asked_version=vm.version + 1)


def _resuming(vm: Running, event: VmResumeRequested) -> Running:
    return replace(vm, pause_wanted=False, stilled=False, asked_version=vm.version + 1)


def _guarding(vm: Running, event: VmGuardRequested) -> Running:
    return replace(vm, spec=replace(vm.spec, protected=True), guarding=True, guard_version=vm.version + 1)


OF_ABSENT: dict[type, Callable[[Any, Any], Vm]] = {
    **dict.fromkeys((VmStrangerSeen, VmStrangerGone), _stranger),
    VmDefined: _defined,
    VmDeleted: _deleted,
}
"""what says something of a VM that is not defined"""
BY_EVENT: dict[type, Callable[[Any, Any], Vm]] = {
    **OF_ABSENT,
    VmStartRequested: _asked,
    VmMemoryNoted: _memory,
    VmDevicesNoted: _devices,
    VmLaunchRequested: _launched,
    VmStarted: _started,
    VmStartFailed: _failed,
    VmStopRequested: _stopping,
    VmStopped: _ended,
    VmReshaped: _reshaped,
    VmAllotted: _allotted,
    VmFound: _found,
}
"""in whatever state it is that is defined"""
RUNNING: dict[type, Callable[[Any, Any], Vm]] = {
    **growth.RUNNING,
    **drifting.RUNNING,
    **dict.fromkeys((VmRanOutOfSpace, VmSpaceRegained), space.evolve),
    **dict.fromkeys((VmPanicked, VmPanicOver), panics.evolve),
    VmMigrationRequested: _moving,
    VmPauseRequested: _pausing,
    VmPaused: lambda vm, event: replace(vm, paused=True),
    VmResumeRequested: _resuming,
    VmResumed: lambda vm, event: replace(vm, paused=False),
    VmResetRequested: lambda vm, event: replace(vm, resets_wanted=event.resets),
    VmReset: _reset,
    VmAllotmentRequested: lambda vm, event: replace(vm, wish=event),
    VmAllotmentDenied: lambda vm, event: replace(vm, wish=None),
    VmGuardRequested: _guarding,
    VmGuarded: lambda vm, event: replace(vm, guarding=False, epoch=event.epoch),
}
MIGRATING: dict[type, Callable[[Any, Any], Vm]] = {
    VmMigrated: _moved,
    VmIncomingRequested: _preparing,
    VmSendRequested: _sending,
    VmRecallRequested: _recalled,
    VmMigrationFailed: _not_moved,
    VmIncomingGone: _target_gone,
    VmReset: _reset_on_the_way,
}
BY_STATE: dict[tuple[type, type], Callable[[Any, Any], Vm]] = {
    **{(Running, event): does for event, does in RUNNING.items()},
    **{(Migrating, event): does for event, does in MIGRATING.items()},
    (Arriving, VmMigrationEnded): _arrived,
    (Stopped, VmRecoveryPrepared): recovering.evolve,
    (Stopped, VmLeftStopped): lambda vm, event: replace(vm, unwished=False),
}
"""what depends on the state that it is in; all else leaves it as it was"""
