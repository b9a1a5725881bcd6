"""io changed a VM's devices: its order follows, and its definition, from which its next start and its moves are asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from proto.compute import NoteDevices, VmDefined, VmDevicesNoted, VmEvent
from proto.hardware import chain, leaving, standing
from proto.machine import Disk, DiskWish, MachineSpec, Nic, NicWish
from proto.models import DISKS
from services.compute.ending import failed
from services.compute.states import Defined, Devices, Launching, Migrating, Phase, Running

CHANGED = "its devices were changed at the same moment"


def note(command: NoteDevices, vm: Defined) -> Sequence[VmEvent]:
    """In every state; a migration that has only begun to reserve ends, for its target was to be made with other devices."""
    noted = VmDevicesNoted(
        vm=vm.id, generation=command.generation, disks=command.disks, nics=command.nics,
        leaving=command.leaving, changed=True, taking=command.taking, protected=_stays_protected(command, vm),
    )  # fmt: skip
    wanted = wishes(command.disks, command.nics)
    if wanted == (vm.definition.disks, vm.definition.nics) and _has(vm, noted):
        return ()
    if isinstance(vm, Migrating) and vm.phase is Phase.RESERVING:
        return [noted, *failed(vm, CHANGED)]
    return [noted]


def _stays_protected(command: NoteDevices, vm: Defined) -> bool:
    """What is guarded by its node's lease is so no more with a disk in a pool in which nothing of it may be. Pools that it had
    before say nothing new: that a node is away just now ends no guard."""
    if isinstance(vm, Migrating) and command.generation == vm.incoming:
        return command.protected
    placed = vm.running if isinstance(vm, Migrating) else vm
    if not isinstance(placed, Running | Launching) or placed.generation != command.generation or not placed.spec.protected:
        return True
    return command.protected or _written(command.disks) <= _written(placed.spec.disks)


def _written(disks: Sequence[Disk]) -> set[tuple[str, str]]:
    """Pools that it writes in, with their words."""
    return {(disk.pool, disk.pool_id) for disk in disks if not disk.bus.is_cd}


def _has(vm: Defined, noted: VmDevicesNoted) -> bool:
    """Whether its order says so already, where it has one of this generation."""
    running = vm.running if isinstance(vm, Migrating) else vm
    if not isinstance(running, Running | Launching) or running.generation != noted.generation:
        return True
    spec = running.spec
    has = (spec.disks, spec.nics, spec.leaving, spec.taking)
    return has == (noted.disks, noted.nics, noted.leaving, noted.taking)


def evolve(vm: Defined, event: VmDevicesNoted) -> Defined:
    disks, nics = wishes(event.disks, event.nics)
    definition: VmDefined = replace(vm.definition, disks=disks, nics=nics)
    state = type(vm)
    if state is Migrating:
        return _on_the_way(vm, event, definition)  # type: ignore[arg-type]
    if (state is Running or state is Launching) and vm.generation == event.generation:
        had: MachineSpec = vm.spec  # type: ignore[union-attr]
        spec = replace(
            had, disks=event.disks, nics=event.nics, leaving=event.leaving, taking=event.taking,
            protected=had.protected and event.protected,
        )  # fmt: skip
        return replace(vm, definition=definition, spec=spec)
    return replace(vm, definition=definition)


def _on_the_way(vm: Migrating, event: VmDevicesNoted, definition: VmDefined) -> Migrating:
    running = evolve(vm.running, event)
    assert isinstance(running, Running)
    to_come = vm.devices
    if event.generation == vm.incoming:
        to_come = Devices(disks=event.disks, nics=event.nics, protected=event.protected)
    return replace(vm, definition=definition, running=running, devices=to_come)


def unsettled(vm: Running) -> str:
    """Why it cannot move just now, as far as its devices go."""
    there = None if vm.hardware is None else set(vm.hardware.slots)
    for slot in vm.spec.leaving:
        if there is None or slot in there:
            return f"a device of {vm.id} is being unplugged (PCI slot {slot})"
    if there is not None:
        named = [*((d.slot, d.name) for d in vm.spec.disks), *((n.slot, n.name) for n in vm.spec.nics)]
        missing = [name for slot, name in named if slot not in there]
        if missing:
            return f"{', '.join(missing)} of {vm.id} is being attached"
    for disk in vm.spec.disks:
        if standing(disk):
            return f"the data of {vm.id} is still coming home from a backup"
        if leaving(disk):
            return f"a snapshot of {vm.id} is being deleted"
        if disk.layers and vm.hardware is not None and dict(vm.hardware.chains).get(disk.slot) != chain(disk):
            return f"a snapshot of {vm.id} is being taken"
    return ""


MOVE_AT_REST = "stop it and start it there, or give it a disk of another kind"


def rooted(disks: Iterable[Disk | DiskWish]) -> str:
    """Why a VM with these cannot move while it runs; "": for all they care it can."""
    buses = sorted({disk.bus for disk in disks if not DISKS[disk.bus].moves})
    return f"it has an {' and an '.join(buses)} disk, whose state QEMU cannot send" if buses else ""


def wishes(disks: Sequence[Disk], nics: Sequence[Nic]) -> tuple[tuple[DiskWish, ...], tuple[NicWish, ...]]:
    """As a definition would ask for them."""
    wished = [
        DiskWish(
            size_mib=d.size_mib, image=d.image, format=d.format, pool=d.pool, bus=d.bus, limits=d.limits, first=d.first, seed=d.seed
        )
        for d in disks
    ]
    return tuple(wished), tuple([NicWish(network=n.network, model=n.model, queues=n.queues) for n in nics])
