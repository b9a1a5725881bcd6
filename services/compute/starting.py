"""From the wish to run until an agent is ordered: candidates in turn, each asked for memory and devices. Pure; a part of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId
from proto.compute import (
    Filter,
    NoteDevices,
    NoteMemory,
    Placement,
    Refusal,
    Rejected,
    StartVm,
    VmDevicesNoted,
    VmEvent,
    VmLaunchRequested,
    VmMemoryNoted,
    VmRestartDenied,
    VmStartFailed,
    VmStartRequested,
)
from proto.machine import ALL_BY_CLASS, MachineSpec, birth
from services.compute import recovering, restored
from services.compute.policy import ATTEMPTS_MAX
from services.compute.reasons import chosen
from services.compute.states import (
    Arriving,
    Defined,
    Devices,
    Launching,
    Migrating,
    Reserving,
    Running,
    Stopped,
    Stopping,
)


def begin(command: StartVm, vm: Defined) -> Sequence[VmEvent]:
    """Raises Refused; where a recovery asks, that is said in the log."""
    try:
        return _begin(command, vm)
    except Refused as no:
        if not command.recovery:
            raise
        return [recovering.waits(command, no)]


def _begin(command: StartVm, vm: Defined) -> Sequence[VmEvent]:
    """Raises Refused."""
    match vm:
        case Stopped():
            restored.all_heard(command)
            unknown = f"{command.vm} was defined a moment ago and placement has not heard of it yet"
            choice = chosen(command.choice, command.node, unknown)
            return [requested(vm, choice, command.incarnation)]
        case Reserving() | Launching() | Running() | Migrating() | Arriving():
            return ()
        case Stopping():
            raise Refused(Refusal.BUSY, f"{command.vm} is being stopped", "wait until it has stopped, then start it")
        case _:
            assert_never(vm)


def requested(
    vm: Stopped | Reserving | Launching, choice: Placement, incarnation: int, attempt: int = 0, failover: bool = False
) -> VmStartRequested:
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
        attempt=attempt,
        failover=failover,
    )


def fail(
    vm: Reserving | Launching, sentence: str, incarnation: int, fresh: Placement | None = None
) -> Sequence[VmEvent]:
    """This start came to nothing on that node: give back, and ask the next candidate while there is one. One that was decided
    before the database was restored is not gone on with: its VM may run elsewhere by now."""
    tried = (*vm.tried, vm.node)
    failed = VmStartFailed(vm=vm.id, node=vm.node, generation=vm.generation, sentence=sentence, tried=tried)
    choice = _without(fresh or vm.placement, tried)
    if len(tried) >= ATTEMPTS_MAX or not choice.candidates or restored.past(vm.generation, incarnation):
        denied = VmRestartDenied(vm=vm.id, attempt=vm.attempt, sentence=sentence)
        return [failed, denied] if vm.attempt else [failed]
    return [replace(failed, again=True), requested(vm, choice, incarnation, vm.attempt, vm.failover)]


def _without(placement: Placement, tried: Sequence[NodeId]) -> Placement:
    """The placement with every tried node among the rejected: from there the next attempt knows them."""
    marked = tuple(Rejected(node=n, filter=Filter.TRIED) for n in tried)
    return replace(
        placement,
        candidates=tuple(c for c in placement.candidates if c.node not in tried),
        rejected=tuple(r for r in placement.rejected if r.node not in tried) + marked,
    )


def note(command: NoteMemory | NoteDevices, vm: Reserving) -> Sequence[VmEvent]:
    if command.generation != vm.generation or command.node != vm.node:
        return ()
    if restored.past(vm.generation, command.incarnation):
        return restored.abandoned(vm)
    match command:
        case NoteMemory() if vm.memory_noted:
            return ()
        case NoteDevices() if vm.devices is not None:
            return ()
        case NoteMemory(granted=False):
            return fail(vm, command.sentence, command.incarnation, command.choice)
        case NoteDevices(granted=False):
            return fail(vm, command.sentence, command.incarnation)
        case NoteMemory():
            noted: VmEvent = VmMemoryNoted(vm=vm.id, generation=vm.generation)
            return [noted] if vm.devices is None else [noted, _launch(vm, vm.devices)]
        case NoteDevices():
            devices = Devices(disks=command.disks, nics=command.nics, protected=command.protected)
            noted = devices_noted(vm, vm.generation, command)
            return [noted, _launch(vm, devices)] if vm.memory_noted else [noted]


def devices_noted(vm: Defined, generation: int, command: NoteDevices) -> VmDevicesNoted:
    return VmDevicesNoted(
        vm=vm.id, generation=generation, disks=command.disks, nics=command.nics, protected=command.protected
    )  # fmt: skip


def note_found(command: NoteDevices, vm: Running) -> Sequence[VmEvent]:
    """The devices of a VM that was found running."""
    same = (vm.spec.disks, vm.spec.nics) == (command.disks, command.nics)
    if same or command.generation != vm.generation or command.node != vm.node:
        return ()
    return [devices_noted(vm, vm.generation, command)]


def _launch(vm: Reserving, devices: Devices) -> VmLaunchRequested:
    wanted = vm.definition
    made = MachineSpec(
        vm=vm.id,
        generation=vm.generation,
        shape=wanted.shape,
        disks=devices.disks,
        nics=devices.nics,
        boot=wanted.boot,
        boot_image=wanted.boot_image,
        priority=wanted.priority,
        allotment=wanted.allotment,
        protected=devices.protected,
    )
    return VmLaunchRequested(vm=vm.id, node=vm.node, spec=replace(made, born=birth(made)))
