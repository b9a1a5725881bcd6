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
    RecoverDisks,
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
from proto.machine import SPARE_PORTS, Disk
from proto.snapshots import DeleteSnapshot, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io import layers, pools, recovering, seeing, snapshots
from services.io import nics as cards
from services.io.changing import change, made_of
from services.io.devices import make_disks, named_anew
from services.io.evolving import evolve as evolve
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
            if isinstance(devices, Made):
                recovering.check(command, devices)
            return change(command, devices)
        case TakeSnapshot() | DeleteSnapshot() | RevertSnapshot():
            made = made_of(command, devices)
            recovering.check(command, made)
            return snapshots.decide(command, made)
        case ReportDisksMerged() if isinstance(devices, Made):
            return [*snapshots.report(command, devices), *recovering.report(command, devices)]
        case RecoverDisks():
            return recovering.recover(command, devices)
        case ReportDisksMerged():
            return ()


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
    found = layers.lost(vm, devices.snapshots if isinstance(devices, Made) else (), disks)
    return [granted, *found, *recovering.lost(devices, disks)]


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
        if _lies(disk) and disk.pool_id and there and there != disk.pool_id and disk.pool not in command.copied:
            node = command.node
            return f"{disk.name} of {command.vm} lies in the pool {disk.pool} {disk.pool_id}; that of {node} is {there}"
    return recovering.unreached(disks, command) or command.unsound


def _left_behind(disks: Sequence[Disk], command: GrantDevices) -> str:
    """What would not go along to another pool; empty: nothing."""
    for disk in disks:
        if disk.layers and disk.pool in command.copied:
            return f"{disk.name} of {command.vm} has snapshots, which do not go along to the pool {disk.pool} of {command.node}"
    return ""


def _lies(disk: Disk) -> bool:
    """Something of it is in its pool."""
    return disk.made or bool(layers.own_layers(disk))


def _at(disk: Disk, command: GrantDevices) -> Disk:
    """As that node is to have it."""
    there = command.pool_ids.get(disk.pool, "")
    if disk.bus.is_cd:
        return replace(disk, pool_id=there if disk.image or disk.file else "")
    anew = not _lies(disk) and disk.pool_id and there and there != disk.pool_id
    if disk.pool in command.copied and command.image_ids.get(disk.image, there) != there:
        disk = replace(disk, image="")  # all that the guest sees goes along: what it stands on is not there
    if anew or disk.pool in command.copied:
        return named_anew(command.vm, disk, command.generation, there)
    made = disk.made or (command.running and not layers.own_layers(disk))
    return replace(disk, pool_id=disk.pool_id if _lies(disk) and disk.pool_id else there, made=made)


def _return(command: ReturnDevices, devices: Devices) -> Sequence[DevicesEvent]:
    if not isinstance(devices, Granted) or command.generation != devices.holder:
        return ()
    source, holder = command.source, command.source_generation
    back = devices.before or devices.disks
    return [DevicesReturned(vm=devices.vm, node=source, generation=command.generation, holder=holder, disks=back)]


def _remove(command: RemoveDevices, devices: Devices) -> Sequence[DevicesEvent]:
    match devices:
        case Removing() if command.gone and command.gone == devices.node:
            if command.node not in ("", command.gone):
                return [DisksRemovalRequested(vm=devices.vm, node=NodeId(command.node), disks=devices.disks)]
            return [DevicesRemoved(vm=devices.vm)]
        case Granted() | Revoked() if command.gone:
            return ()
        case NoDevices() | Removing():
            return ()
        case Granted() | Revoked():
            events: list[DevicesEvent] = []
            if isinstance(devices, Granted):
                events += seeing.ended(devices)
                events.append(DevicesRevoked(vm=devices.vm, generation=devices.generation))
            node = NodeId(command.node) if command.node else devices.node
            going = (o.disk for o in devices.leaving if o.delete and o.disk) if isinstance(devices, Granted) else ()
            disks = tuple(layers.alone(d) for d in (*devices.disks, *going) if d.file)
            asked = DisksRemovalRequested(vm=devices.vm, node=node, disks=disks)
            return [*events, asked if disks and node else DevicesRemoved(vm=devices.vm)]  # no node: nobody ever had them
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
