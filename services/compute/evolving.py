"""How events lead a VM from one state to the next. Pure; the machine is drawn in model.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

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
from services.compute import devices, drifting, growth, panics, space
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
    kind = type(event)
    if type(vm) is Absent and kind not in OF_ABSENT:
        after: Vm = vm
    else:
        does = BY_EVENT.get(kind)
        after = does(vm, event) if does is not None else _otherwise(vm, event)
    highest = max(vm.highest, after.highest)
    given = highest if highest > after.generation else 0
    if after is vm:
        return replace(after, given=given, version=vm.version + 1)
    if after.given != given:  # made just now: nobody else has it
        force_setattr(after, "given", given)
    force_setattr(after, "version", vm.version + 1)
    return after


def _defined(vm: Vm, event: VmDefined) -> Vm:
    return Stopped(definition=event, generation=vm.generation)


def _deleted(vm: Vm, event: VmDeleted) -> Vm:
    return Absent(generation=vm.generation)


def _stranger(vm: Vm, event: VmStrangerSeen | VmStrangerGone) -> Vm:
    node = event.node if isinstance(event, VmStrangerSeen) else NodeId("")
    return Absent(generation=max(vm.generation, event.generation), stranger=node)


def _reshaped(vm: Defined, event: VmReshaped) -> Vm:
    return replace(vm, definition=replace(vm.definition, shape=event.shape))


def _allotted(vm: Defined, event: VmAllotted) -> Vm:
    after = replace(vm, definition=replace(vm.definition, priority=event.priority, allotment=event.allotment))
    return replace(after, wish=None) if isinstance(after, Running) else after


def _devices(vm: Defined, event: VmDevicesNoted) -> Vm:
    return devices.evolve(vm, event) if event.changed else _evolve_start(vm, event)


def _ended(vm: Defined, event: VmStartFailed | VmStopped) -> Vm:
    return Stopped(
        definition=vm.definition,
        generation=vm.generation,
        node=event.node,
        sentence=event.sentence,
        abandoned=isinstance(event, VmStartFailed) and event.abandoned,
        unwished=event.unwished if isinstance(event, VmStopped) else _tried_again(vm),
    )


def _stopping(vm: Defined, event: VmStopRequested) -> Vm:
    return Stopping(
        definition=vm.definition, generation=vm.generation, node=event.node, deadline_s=event.deadline_s,
        cause=event.cause, protected=_covered(vm),
    )  # fmt: skip


def _otherwise(vm: Vm, event: VmEvent) -> Vm:
    """What depends on the state that it is in."""
    match event:
        case VmMigrationRequested() if isinstance(vm, Running):
            return _moving(vm, event)
        case VmMigrated() if isinstance(vm, Migrating):
            return _moved(vm, event)
        case VmMigrationEnded() if isinstance(vm, Arriving):
            return _arrived(vm, event)
        case VmLeftStopped() if isinstance(vm, Stopped):
            return replace(vm, unwished=False)
        case _ if isinstance(vm, Migrating):
            return _evolve_migration(vm, event)
        case _ if isinstance(vm, Running):
            return _evolve_running(vm, event)
        case _:
            return vm


def _covered(vm: Vm) -> bool:
    """Its process, by the lease of its node."""
    return vm.covered if isinstance(vm, Running) else isinstance(vm, Launching | Arriving) and vm.spec.protected


def _tried_again(vm: Vm) -> bool:
    """A start that its guard asked for leaves it as it was: it is to run. So does one that somebody made of such a VM."""
    return isinstance(vm, Reserving | Launching) and (vm.attempt > 0 or vm.unwished)


def _evolve_start(
    vm: Defined, event: VmStartRequested | VmMemoryNoted | VmDevicesNoted | VmLaunchRequested
) -> Vm:
    match event:
        case VmStartRequested():
            return Reserving(
                definition=vm.definition,
                generation=max(vm.generation, event.generation),
                node=event.node,
                placement=event.placement,
                attempt=event.attempt,
                failover=event.failover,
                unwished=isinstance(vm, Stopped) and vm.unwished,
            )
        case VmMemoryNoted() if isinstance(vm, Migrating):
            return replace(vm, memory_noted=True)
        case VmDevicesNoted() if isinstance(vm, Migrating):
            return replace(vm, devices=_granted(event))
        case VmDevicesNoted() if isinstance(vm, Running):
            return replace(vm, spec=replace(vm.spec, disks=event.disks, nics=event.nics))
        case _ if not isinstance(vm, Reserving):
            return vm
        case VmMemoryNoted():
            return replace(vm, memory_noted=True)
        case VmDevicesNoted():
            return replace(vm, devices=_granted(event))
        case VmLaunchRequested():
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
        case _:
            assert_never(event)


def _granted(event: VmDevicesNoted) -> Devices:
    return Devices(disks=event.disks, nics=event.nics, protected=event.protected)


def _started(vm: Defined, event: VmStarted) -> Vm:
    if not isinstance(vm, Launching):
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


def _evolve_migration(vm: Migrating, event: VmEvent) -> Migrating | Running:
    match event:
        case VmIncomingRequested():
            return replace(vm, phase=Phase.PREPARING, protected=event.spec.protected)
        case VmSendRequested():
            return replace(vm, phase=Phase.SENDING, address=event.address, asked_version=vm.version + 1)
        case VmRecallRequested(sentence=said):
            gone = vm.target_gone or event.target_gone
            return replace(vm, phase=Phase.RECALLING, sentence=said, target_gone=gone, asked_version=vm.version + 1)
        case VmMigrationFailed(sentence=said, source_gone=gone, cause=cause):
            return replace(vm, phase=Phase.ENDING, sentence=said, source_gone=gone, cause=cause)
        case VmIncomingGone() if not vm.source_gone:
            return replace(vm.running, definition=vm.definition)
        case VmReset():
            return replace(vm, running=_evolve_running(vm.running, event))
        case _:
            return vm


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


def _evolve_running(vm: Running, event: VmEvent) -> Running:
    match event:
        case VmPauseRequested():
            return replace(vm, pause_wanted=True, stilled=event.stilled, asked_version=vm.version + 1)
        case VmPaused():
            return replace(vm, paused=True)
        case VmResumeRequested():
            return replace(vm, pause_wanted=False, stilled=False, asked_version=vm.version + 1)
        case VmResumed():
            return replace(vm, paused=False)
        case VmResetRequested():
            return replace(vm, resets_wanted=event.resets)
        case VmReset():
            return replace(vm, resets=event.resets, resets_wanted=max(vm.resets_wanted, event.resets))
        case VmRanOutOfSpace() | VmSpaceRegained():
            return space.evolve(vm, event)
        case VmPanicked() | VmPanicOver():
            return panics.evolve(vm, event)
        case VmAllotmentRequested():
            return replace(vm, wish=event)
        case VmAllotmentDenied():
            return replace(vm, wish=None)
        case VmGuardRequested():
            spec = replace(vm.spec, protected=True)
            return replace(vm, spec=spec, guarding=True, guard_version=vm.version + 1)
        case VmGuarded():
            return replace(vm, guarding=False, epoch=event.epoch)
        case _:
            return drifting.evolve(growth.evolve(vm, event), event)


OF_ABSENT = frozenset({VmDefined, VmDeleted, VmStrangerSeen, VmStrangerGone})
"""what says something of a VM that is not defined"""
BY_EVENT: dict[type, Callable[[Any, Any], Vm]] = {
    **dict.fromkeys((VmStrangerSeen, VmStrangerGone), _stranger),
    **dict.fromkeys((VmStartRequested, VmMemoryNoted, VmLaunchRequested), _evolve_start),
    **dict.fromkeys((VmStartFailed, VmStopped), _ended),
    VmDefined: _defined,
    VmDeleted: _deleted,
    VmReshaped: _reshaped,
    VmAllotted: _allotted,
    VmDevicesNoted: _devices,
    VmStarted: _started,
    VmFound: _found,
    VmStopRequested: _stopping,
}
