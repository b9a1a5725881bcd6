"""How events lead the devices of a VM from one state to the next. Pure; the machine is drawn in model.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.messages import NodeId, incarnation_of
from proto.io import (
    DevicesChanged,
    DevicesEvent,
    DevicesGranted,
    DevicesRemoved,
    DevicesReturned,
    DevicesRevoked,
    DiskFilesRemoved,
    DisksRemovalRequested,
    DisksSettled,
)
from proto.machine import CDS, Disk, Nic, ports_of
from services.io import layers, recovering, seeing
from services.io.devices import number_of
from services.io.states import Devices, Granted, Made, NoDevices, Removing, Revoked, more_unwanted


def evolve(devices: Devices, event: DevicesEvent) -> Devices:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    kind, version = type(event), devices.version + 1
    does = BY_EVENT.get(kind) or BY_STATE.get((type(devices), kind))
    if does is not None:
        return does(devices, event, version)
    after = devices
    if isinstance(devices, Made):
        after = seeing.evolve(devices, event, version)  # type: ignore[assignment]
    after = replace(after, version=version)
    return _files_gone(after, event) if type(event) is DiskFilesRemoved else after


def _files_gone(devices: Devices, event: DiskFilesRemoved) -> Devices:
    kept = ((one, tuple(d for d in one.disks if d.file not in event.files)) for one in devices.unwanted)
    return replace(devices, unwanted=tuple(replace(one, disks=disks) for one, disks in kept if disks))


def _removed(devices: Devices, event: DevicesRemoved, version: int) -> NoDevices:
    return NoDevices(generation=devices.generation, version=version, first=devices.first, unwanted=devices.unwanted)


def _removing(devices: Devices, event: DisksRemovalRequested, version: int) -> Removing:
    unwanted = recovering.with_former(devices, version) if isinstance(devices, Made) else devices.unwanted
    return Removing(
        generation=devices.generation,
        version=version,
        first=_first(devices, event),
        unwanted=unwanted,
        vm=event.vm,
        node=event.node,
        disks=event.disks,
        asked_version=version,
    )


def _made(devices: NoDevices, event: DevicesChanged, version: int) -> Revoked:
    """By hand, before it ever started."""
    numbers = [number_of(d.name) for d in event.disks]
    return Revoked(
        generation=devices.generation,
        version=version,
        first=devices.first,
        unwanted=devices.unwanted,
        vm=event.vm,
        node=event.node,
        disks=event.disks,
        nics=event.nics,
        disks_made=max([devices.first, *(n + 1 for n in numbers), _after(event, "disk")]),
        nics_made=max([0, *(number_of(n.name) + 1 for n in event.nics), _after(event, "nic")]),
    )


def _most(made: int, devices: Sequence[Disk] | Sequence[Nic]) -> int:
    """How many there were, by the numbers of these."""
    for device in devices:
        if (number := number_of(device.name)) >= made:
            made = number + 1
    return made


def _after(event: DevicesChanged, kind: str) -> int:
    name = event.change.name
    return number_of(name) + 1 if name.startswith(kind) else 0


def _first(devices: Devices, event: DisksRemovalRequested) -> int:
    """Where files of detached disks were left, a new VM of this name is to take other names."""
    if not isinstance(devices, Made):
        return devices.first
    if devices.disks_made - devices.first <= len(devices.disks) and not devices.unwanted:
        return devices.first
    return devices.disks_made


def _gone(had: Sequence[Disk], disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """Of those that were had, those that are no more, by their files."""
    files = [disk.file for disk in disks]
    return tuple([d for d in had if d.file not in files and d.bus not in CDS])


def _ports(event: DevicesGranted) -> tuple[int, ...]:
    return ports_of((*[d.slot for d in event.disks], *[n.slot for n in event.nics]), event.spare)


def _granted(devices: Devices, event: DevicesGranted, version: int) -> Granted:
    """A grant on top of another is of a migration: the process is born like the first. What an earlier start made where its guest
    was never seen is of no use, unless a restore of the log may be why it was not seen."""
    disks, nics, state = event.disks, event.nics, type(devices)
    made: Made | None = devices if state is Granted or state is Revoked else None  # type: ignore[assignment]
    old = _gone(made.disks, disks) if made else ()
    before = devices if old and type(devices) is Granted and not all(d.made or d.bus.is_cd for d in disks) else None
    tried: tuple[Disk, ...] = ()
    if old and state is Revoked and incarnation_of(event.generation) == incarnation_of(devices.generation):
        tried = tuple(d for d in old if not d.made)
    return Granted(
        generation=max(devices.generation, event.generation),
        version=version,
        first=devices.first,
        vm=event.vm,
        node=event.node,
        disks=disks,
        nics=nics,
        disks_made=_most(made.disks_made if made and made.disks_made > devices.first else devices.first, disks),
        nics_made=_most(made.nics_made if made else 0, nics),
        unwanted=more_unwanted(devices, made.node if made else "", tried, version) if tried else devices.unwanted,
        snapshots=layers.kept(made.snapshots, disks) if made and made.snapshots else (),
        kept=made.kept if made else (),
        recovering=recovering.granted(made, disks),
        ports=devices.ports if type(devices) is Granted else _ports(event),
        source=before.node if before else NodeId(""),
        before=before.disks if before else (),
    )


def _returned(devices: Granted, event: DevicesReturned, version: int) -> Granted:
    """What was to be made for the other node is of no use any more."""
    files = {disk.file for disk in event.disks}
    left = tuple(disk for disk in devices.disks if disk.file not in files)
    return replace(
        devices, node=event.node, returned_to=event.holder, version=version, disks=event.disks, source=NodeId(""), before=(),
        unwanted=more_unwanted(devices, devices.node, left, version),
    )  # fmt: skip


def _settled(devices: Granted, event: DisksSettled, version: int) -> Granted:
    disks = tuple([replace(disk, made=disk.bus not in CDS) for disk in devices.disks])
    unwanted = more_unwanted(devices, event.source, event.left, version)
    return replace(devices, disks=disks, source=NodeId(""), before=(), unwanted=unwanted, version=version)


def _revoked(devices: Granted, event: DevicesRevoked, version: int) -> Revoked:
    return Revoked(
        generation=max(devices.generation, event.generation),
        version=version,
        first=devices.first,
        vm=devices.vm,
        node=devices.node,
        disks=devices.disks,
        nics=devices.nics,
        disks_made=devices.disks_made,
        nics_made=devices.nics_made,
        unwanted=devices.unwanted,
        snapshots=devices.snapshots,
        kept=devices.kept,
        recovering=devices.recovering,
    )


BY_EVENT: dict[type, Callable[[Any, Any, int], Devices]] = {
    DevicesGranted: _granted,
    DevicesRemoved: _removed,
    DisksRemovalRequested: _removing,
}
"""in whatever state"""
BY_STATE: dict[tuple[type, type], Callable[[Any, Any, int], Devices]] = {
    (Granted, DevicesReturned): _returned,
    (Granted, DisksSettled): _settled,
    (Granted, DevicesRevoked): _revoked,
    (NoDevices, DevicesChanged): _made,
}
"""all else, while there are devices, is seeing.py's"""
