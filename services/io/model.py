"""The devices of one VM (stream `devices-VM`). Pure.

              first grant makes them            revoke
    NoDevices ───────────────────▶ Granted ◀──────────────▶ Revoked
       ▲                              │       later grant      │
       │          disks seen removed  └──────── remove ────────┤
       └───────────────────────────────── Removing ◀───────────┘

Names, serials, MACs and slots are derived from the VM's name and the index, so that the same decision makes the same devices.
The granted generation only rises, over removal too; only a VM that is found running after a restore has its own granted
again. While a VM migrates, the grant is the incoming generation's; if that comes to nothing, it is returned to the source. A denial
is an event: the asker is a reaction, and compute learns of it
from the log. A grant that is there already is not written again, for compute has read the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId, VmId
from proto.io import (
    AttachDisk,
    AttachNic,
    DetachDisk,
    DetachNic,
    DevicesChanged,
    DevicesCommand,
    DevicesDenied,
    DevicesEvent,
    DevicesGranted,
    DevicesRemoved,
    DevicesReturned,
    DevicesRevoked,
    DiskFilesRemoved,
    DisksRemovalRequested,
    GrantDevices,
    LimitDisk,
    NoteHardware,
    Refusal,
    RemoveDevices,
    ReportDisksRemoved,
    ResizeDisk,
    ReturnDevices,
    RevokeDevices,
    SetNic,
)
from proto.machine import ports
from services.io import seeing
from services.io.changing import change
from services.io.devices import make_disks, make_nics
from services.io.states import Devices, Granted, Made, NoDevices, Removing, Revoked


def decide(command: DevicesCommand, devices: Devices) -> Sequence[DevicesEvent]:
    match command:
        case GrantDevices():
            return _grant(command, devices)
        case RevokeDevices():
            if not isinstance(devices, Granted) or command.generation < devices.holder:
                return ()
            return [*seeing.ended(devices), DevicesRevoked(vm=devices.vm, generation=command.generation)]
        case ReturnDevices():
            return _return(command, devices)
        case RemoveDevices():
            return _remove(command, devices)
        case ReportDisksRemoved():
            return _report(command, devices)
        case NoteHardware():
            return seeing.note(command, devices)
        case AttachDisk() | DetachDisk() | ResizeDisk() | LimitDisk() | AttachNic() | DetachNic() | SetNic():
            return change(command, devices)


def _grant(command: GrantDevices, devices: Devices) -> Sequence[DevicesEvent]:
    vm, node, generation = VmId(command.vm), command.node, command.generation
    again = command.running and isinstance(devices, Revoked) and generation == devices.generation
    if generation <= devices.generation and not again:
        return ()
    if isinstance(devices, Removing):
        said = f"disks of an earlier {vm} are still being removed by {devices.node}"
        return [DevicesDenied(vm=vm, node=node, generation=generation, sentence=said)]
    missing = sorted({d.image for d in command.disks if d.image and d.image not in command.sizes_mib})
    if missing:
        said = f"the image {', '.join(missing)}, on which a disk of {vm} stands, is not there (any more)"
        return [DevicesDenied(vm=vm, node=node, generation=generation, sentence=said)]
    if isinstance(devices, NoDevices):
        disks = make_disks(vm, command.disks, command.sizes_mib, devices.first)
        nics = make_nics(vm, command.nics, slot_first=len(disks))
    else:
        disks, nics = devices.disks, devices.nics
    return [DevicesGranted(vm=vm, node=node, generation=generation, disks=disks, nics=nics)]


def _return(command: ReturnDevices, devices: Devices) -> Sequence[DevicesEvent]:
    if not isinstance(devices, Granted) or command.generation != devices.holder:
        return ()
    source, holder = command.source, command.source_generation
    return [DevicesReturned(vm=devices.vm, node=source, generation=command.generation, holder=holder)]


def _remove(command: RemoveDevices, devices: Devices) -> Sequence[DevicesEvent]:
    match devices:
        case NoDevices() | Removing():
            return ()
        case Granted() | Revoked():
            events: list[DevicesEvent] = []
            if isinstance(devices, Granted):
                events += seeing.ended(devices)
                events.append(DevicesRevoked(vm=devices.vm, generation=devices.generation))
            node = NodeId(command.node) if command.node else devices.node
            going = (o.disk for o in devices.leaving if o.delete and o.disk) if isinstance(devices, Granted) else ()
            disks = (*devices.disks, *devices.unwanted, *going)
            asked = DisksRemovalRequested(vm=devices.vm, node=node, disks=disks)
            return [*events, asked if disks else DevicesRemoved(vm=devices.vm)]
        case _:
            assert_never(devices)


def _report(fact: ReportDisksRemoved, devices: Devices) -> Sequence[DevicesEvent]:
    if isinstance(devices, Made):
        if not devices.unwanted or fact.order_version < devices.unwanted_version or fact.node != devices.node:
            return ()
        if fact.order_incarnation != fact.incarnation:
            return ()
        return [DiskFilesRemoved(vm=devices.vm, files=tuple(d.file for d in devices.unwanted))]
    if not isinstance(devices, Removing) or fact.order_version < devices.asked_version:
        return ()
    if fact.order_incarnation != fact.incarnation:
        return ()
    if fact.node != devices.node:
        raise Refused(
            Refusal.NOT_PERMITTED,
            f"{fact.node} reports the disks of {fact.vm} removed; the log names {devices.node}",
            "report only what was ordered of this node",
        )
    return [DevicesRemoved(vm=devices.vm)]


def evolve(devices: Devices, event: DevicesEvent) -> Devices:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    version = devices.version + 1
    match event:
        case DevicesGranted():
            return _evolve_granted(devices, event, version)
        case DevicesRemoved():
            return NoDevices(generation=devices.generation, version=version, first=devices.first)
        case DisksRemovalRequested():
            return Removing(
                generation=devices.generation,
                version=version,
                first=_first(devices, event),
                vm=event.vm,
                node=event.node,
                disks=event.disks,
                asked_version=version,
            )
        case DevicesReturned() if isinstance(devices, Granted):
            return replace(devices, node=event.node, returned_to=event.holder, version=version)
        case DevicesRevoked() if isinstance(devices, Granted):
            return _evolve_revoked(devices, event, version)
        case DevicesChanged() if isinstance(devices, NoDevices):
            numbers = [_number(d.name) for d in event.disks]
            return Revoked(
                generation=devices.generation,
                version=version,
                first=devices.first,
                vm=event.vm,
                node=event.node,
                disks=event.disks,
                nics=event.nics,
                disks_made=max([devices.first, *(n + 1 for n in numbers), _after(event, "disk")]),
                nics_made=max([0, *(_number(n.name) + 1 for n in event.nics), _after(event, "nic")]),
            )
        case _ if isinstance(devices, Made):
            return replace(seeing.evolve(devices, event, version), version=version)  # type: ignore[return-value]
        case _:
            return replace(devices, version=version)


def _number(name: str) -> int:
    return int(name.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)


def _after(event: DevicesChanged, kind: str) -> int:
    name = event.change.name
    return _number(name) + 1 if name.startswith(kind) else 0


def _first(devices: Devices, event: DisksRemovalRequested) -> int:
    """Where files of detached disks were left, a new VM of this name is to take other names."""
    if not isinstance(devices, Made) or devices.disks_made - devices.first <= len(devices.disks):
        return devices.first
    return devices.disks_made


def _evolve_granted(devices: Devices, event: DevicesGranted, version: int) -> Granted:
    """A grant on top of another is of a migration: the process is born like the first."""
    slots = (*(d.slot for d in event.disks), *(n.slot for n in event.nics))
    made = devices if isinstance(devices, Made) else None
    return Granted(
        generation=max(devices.generation, event.generation),
        version=version,
        first=devices.first,
        vm=event.vm,
        node=event.node,
        disks=event.disks,
        nics=event.nics,
        disks_made=made.disks_made if made else devices.first + len(event.disks),
        nics_made=made.nics_made if made else len(event.nics),
        unwanted=made.unwanted if made else (),
        unwanted_version=made.unwanted_version if made else 0,
        ports=devices.ports if isinstance(devices, Granted) else tuple(sorted(ports(slots))),
    )


def _evolve_revoked(devices: Granted, event: DevicesRevoked, version: int) -> Revoked:
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
        unwanted_version=devices.unwanted_version,
    )


DEVICES: Decider[DevicesCommand, Devices, DevicesEvent] = Decider(
    kind="devices",
    commands=get_args(DevicesCommand),
    events=get_args(DevicesEvent),
    state=Devices,
    key=lambda command: command.vm,
    initial=NoDevices(),
    decide=decide,
    evolve=evolve,
)
