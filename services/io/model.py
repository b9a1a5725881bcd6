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
from libs.common.messages import NodeId, VmId, incarnation_of
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
    DisksSettled,
    GrantDevices,
    LimitDisk,
    NoteHardware,
    ReattachDisk,
    Refusal,
    RemoveDevices,
    ReportDisksRemoved,
    ResizeDisk,
    ReturnDevices,
    RevokeDevices,
    SetMedium,
    SetNic,
    SettleDisks,
)
from proto.machine import SPARE_PORTS, Disk, ports
from proto.snapshots import DeleteSnapshot, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io import layers, pools, seeing, snapshots
from services.io import nics as cards
from services.io.changing import change, made_of
from services.io.devices import make_disks, named_anew
from services.io.states import Devices, Granted, Made, NoDevices, Removing, Revoked, more_unwanted


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
        case SettleDisks():
            return _settle(command, devices)
        case ReportDisksRemoved():
            return _report(command, devices)
        case NoteHardware():
            return seeing.note(command, devices)
        case (
            AttachDisk() | ReattachDisk() | DetachDisk() | ResizeDisk() | LimitDisk() | SetMedium()
            | AttachNic() | DetachNic() | SetNic()
        ):  # fmt: skip
            return change(command, devices)
        case TakeSnapshot() | DeleteSnapshot() | RevertSnapshot():
            return snapshots.decide(command, made_of(command, devices))
        case ReportDisksMerged():
            return snapshots.report(command, devices) if isinstance(devices, Made) else ()


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
    networks = cards.by_name(command.networks)
    if command.has_disks or command.has_nics:
        disks, nics = command.has_disks, command.has_nics
    elif isinstance(devices, NoDevices):
        disks = make_disks(vm, command.disks, command.sizes_mib, devices.first, command.uefi)
        nics = cards.make_nics(vm, command.nics, len(disks), networks)
    else:
        disks, nics = devices.disks, devices.nics
    if not command.running and (said := _out_of_reach(disks, command) or _left_behind(disks, command)):
        return [DevicesDenied(vm=vm, node=node, generation=generation, sentence=said)]
    if not command.running:
        if lacking := cards.missing(nics, networks):
            said = cards.sentence(vm, lacking, command.others)
            return [DevicesDenied(vm=vm, node=node, generation=generation, sentence=said)]
        moves = isinstance(devices, Granted)  # a grant on top of another
        nics = tuple(cards.resolved(nic, networks, runs=moves) for nic in nics)
    disks = tuple(_at(disk, command) for disk in disks)
    there = devices.disks if isinstance(devices, Made) else ()
    if not command.running and (said := pools.lacking(command.rooms, disks, there)):
        return [DevicesDenied(vm=vm, node=node, generation=generation, sentence=said)]
    granted = DevicesGranted(vm=vm, node=node, generation=generation, disks=disks, nics=nics, spare=SPARE_PORTS)
    return [granted, *layers.lost(vm, devices.snapshots if isinstance(devices, Made) else (), disks)]


def _out_of_reach(disks: Sequence[Disk], command: GrantDevices) -> str:
    """Why the node cannot have them; empty: it can."""
    for disk in disks:
        there = command.pool_ids.get(disk.pool, "")
        lies = command.image_ids.get(disk.image, there) if disk.bus.is_cd and disk.image else there
        if disk.seed is not None and disk.pool_id and there and there != disk.pool_id:
            return f"the seed of {command.vm} lies in the pool {disk.pool} {disk.pool_id}, which {command.node} does not reach"
        if lies and there and lies != there:
            node = command.node
            return f"{disk.name} of {command.vm} holds the ISO {disk.image}, which {node} does not reach: eject it first"
        known = disk.made or disk.layers
        if known and disk.pool_id and there and there != disk.pool_id and disk.pool not in command.copied:
            node = command.node
            return f"{disk.name} of {command.vm} lies in the pool {disk.pool} {disk.pool_id}; that of {node} is {there}"
    return ""


def _left_behind(disks: Sequence[Disk], command: GrantDevices) -> str:
    """What would not go along to another pool; empty: nothing."""
    for disk in disks:
        if disk.layers and disk.pool in command.copied:
            return f"{disk.name} of {command.vm} has snapshots, which do not go along to the pool {disk.pool} of {command.node}"
    return ""


def _at(disk: Disk, command: GrantDevices) -> Disk:
    """As that node is to have it."""
    there = command.pool_ids.get(disk.pool, "")
    if disk.bus.is_cd:
        return replace(disk, pool_id=there if disk.image or disk.file else "")
    anew = not disk.made and not disk.layers and disk.pool_id and there and there != disk.pool_id
    if disk.pool in command.copied and command.image_ids.get(disk.image, there) != there:
        disk = replace(disk, image="")  # all that the guest sees goes along: what it stands on is not there
    if anew or disk.pool in command.copied:
        return named_anew(command.vm, disk, command.generation, there)
    known = disk.made or disk.layers
    made = disk.made or (command.running and not disk.layers)
    return replace(disk, pool_id=disk.pool_id if known and disk.pool_id else there, made=made)


def _return(command: ReturnDevices, devices: Devices) -> Sequence[DevicesEvent]:
    if not isinstance(devices, Granted) or command.generation != devices.holder:
        return ()
    source, holder = command.source, command.source_generation
    back = devices.before or devices.disks
    return [DevicesReturned(vm=devices.vm, node=source, generation=command.generation, holder=holder, disks=back)]


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
            disks = tuple(d for d in (*devices.disks, *going) if d.file)
            asked = DisksRemovalRequested(vm=devices.vm, node=node, disks=disks)
            return [*events, asked if disks else DevicesRemoved(vm=devices.vm)]
        case _:
            assert_never(devices)


def _settle(command: SettleDisks, devices: Devices) -> Sequence[DevicesEvent]:
    if not isinstance(devices, Granted) or command.generation != devices.holder:
        return ()
    if all(disk.made or disk.bus.is_cd for disk in devices.disks) and not devices.before:
        return ()
    here = {disk.file for disk in devices.disks}
    left = tuple(disk for disk in devices.before if disk.file not in here and not disk.bus.is_cd)
    return [DisksSettled(vm=devices.vm, generation=command.generation, source=devices.source, left=left)]


def _report(fact: ReportDisksRemoved, devices: Devices) -> Sequence[DevicesEvent]:
    if fact.order_incarnation != fact.incarnation:
        return ()
    done = (u for u in devices.unwanted if u.node == fact.node and fact.order_version >= u.asked_version)
    files = tuple(disk.file for one in done for disk in one.disks)
    events: list[DevicesEvent] = [DiskFilesRemoved(vm=VmId(fact.vm), files=files)] if files else []
    if not isinstance(devices, Removing) or fact.order_version < devices.asked_version:
        return events
    if fact.node != devices.node:
        if events:
            return events
        raise Refused(
            Refusal.NOT_PERMITTED,
            f"{fact.node} reports the disks of {fact.vm} removed; the log names {devices.node}",
            "report only what was ordered of this node",
        )
    return [*events, DevicesRemoved(vm=devices.vm)]


def evolve(devices: Devices, event: DevicesEvent) -> Devices:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    after = _evolve(devices, event)
    if isinstance(event, DiskFilesRemoved):
        kept = ((one, tuple(d for d in one.disks if d.file not in event.files)) for one in after.unwanted)
        return replace(after, unwanted=tuple(replace(one, disks=disks) for one, disks in kept if disks))
    return after


def _evolve(devices: Devices, event: DevicesEvent) -> Devices:
    version = devices.version + 1
    match event:
        case DevicesGranted():
            return _evolve_granted(devices, event, version)
        case DevicesRemoved():
            return NoDevices(
                generation=devices.generation, version=version, first=devices.first, unwanted=devices.unwanted
            )
        case DisksRemovalRequested():
            return Removing(
                generation=devices.generation,
                version=version,
                first=_first(devices, event),
                unwanted=devices.unwanted,
                vm=event.vm,
                node=event.node,
                disks=event.disks,
                asked_version=version,
            )
        case DevicesReturned() if isinstance(devices, Granted):
            return _evolve_returned(devices, event, version)
        case DisksSettled() if isinstance(devices, Granted):
            return _evolve_settled(devices, event, version)
        case DevicesRevoked() if isinstance(devices, Granted):
            return _evolve_revoked(devices, event, version)
        case DevicesChanged() if isinstance(devices, NoDevices):
            numbers = [_number(d.name) for d in event.disks]
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
    if not isinstance(devices, Made):
        return devices.first
    if devices.disks_made - devices.first <= len(devices.disks) and not devices.unwanted:
        return devices.first
    return devices.disks_made


def _evolve_granted(devices: Devices, event: DevicesGranted, version: int) -> Granted:
    """A grant on top of another is of a migration: the process is born like the first. What an earlier start made where its guest
    was never seen is of no use, unless a restore of the log may be why it was not seen."""
    slots = (*(d.slot for d in event.disks), *(n.slot for n in event.nics))
    made = devices if isinstance(devices, Made) else None
    files = {disk.file for disk in event.disks}
    old = tuple(d for d in made.disks if d.file not in files and not d.bus.is_cd) if made else ()
    before = devices if old and isinstance(devices, Granted) and not all(d.made or d.bus.is_cd for d in event.disks) else None
    same = incarnation_of(event.generation) == incarnation_of(devices.generation)
    tried = tuple(d for d in old if same and isinstance(devices, Revoked) and not d.made)
    disks_made = max([devices.first, *(_number(d.name) + 1 for d in event.disks)])
    nics_made = max([0, *(_number(n.name) + 1 for n in event.nics)])
    return Granted(
        generation=max(devices.generation, event.generation),
        version=version,
        first=devices.first,
        vm=event.vm,
        node=event.node,
        disks=event.disks,
        nics=event.nics,
        disks_made=max(disks_made, made.disks_made) if made else disks_made,
        nics_made=max(nics_made, made.nics_made) if made else nics_made,
        unwanted=more_unwanted(devices, made.node if made else "", tried, version),
        snapshots=layers.kept(made.snapshots if made else (), event.disks),
        kept=made.kept if made else (),
        ports=devices.ports if isinstance(devices, Granted) else tuple(sorted(ports(slots, event.spare))),
        source=before.node if before else NodeId(""),
        before=before.disks if before else (),
    )


def _evolve_returned(devices: Granted, event: DevicesReturned, version: int) -> Granted:
    """What was to be made for the other node is of no use any more."""
    files = {disk.file for disk in event.disks}
    left = tuple(disk for disk in devices.disks if disk.file not in files)
    return replace(
        devices, node=event.node, returned_to=event.holder, version=version, disks=event.disks, source=NodeId(""), before=(),
        unwanted=more_unwanted(devices, devices.node, left, version),
    )  # fmt: skip


def _evolve_settled(devices: Granted, event: DisksSettled, version: int) -> Granted:
    disks = tuple(replace(disk, made=not disk.bus.is_cd) for disk in devices.disks)
    unwanted = more_unwanted(devices, event.source, event.left, version)
    return replace(devices, disks=disks, source=NodeId(""), before=(), unwanted=unwanted, version=version)


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
        snapshots=devices.snapshots,
        kept=devices.kept,
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
