"""Images made of VMs' disks: what may be read, and as what. Pure; a part of images.py.

What is read is not written meanwhile: the disk of a VM that is stopped, or the layers of a snapshot. That both stay so is seen to
where they are: the reader holds QEMU's locks on the files, and for a VM at rest its lease's lock.
"""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId
from proto.hardware import standing
from proto.images import DiskSource, ImageFormat, MakeImage
from proto.io import ImageImportRequested, Refusal
from proto.machine import Disk, Layer
from proto.pools import PoolKind

NAMES_MAX = 16


def wish(command: MakeImage) -> ImageImportRequested:
    """Raises Refused."""
    known, vm = command.known, command.vm
    if not known.defined:
        raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {vm}", "name one that exists")
    disk = _disk(command)
    if standing(disk):
        said = f"{disk.name} of {vm} still stands on a backup: its data has not come home yet"
        raise Refused(Refusal.BUSY, said, "wait until it is independent")
    if command.snapshot:
        source = DiskSource(vm=vm, disk=_held(command, disk), boot_image=known.boot_image)
    elif known.running:
        said = f"{vm} is not stopped: its guest would write {disk.name} while it is read"
        raise Refused(Refusal.NOT_STOPPED, said, f"take a snapshot first (asvctl snapshot take {vm}) and name it, or stop {vm}")
    else:
        source = DiskSource(vm=vm, disk=_resting(vm, disk), resting=True, boot_image=known.boot_image)
    if (kind := known.kinds.get(disk.name, PoolKind.LOCAL)) in (PoolKind.NBD, PoolKind.RBD):
        said = f"{disk.name} of {vm} lies in the pool {disk.pool}, which is {kind}: images are made in pools that are folders"
        raise Refused(Refusal.BAD_DEVICE, said, "move the disk to a folder, or use the storage's own copies")
    node = known.nodes.get(disk.name, "")
    if not node:
        said = f"no node reaches the pool {disk.pool}, in which {disk.name} of {vm} lies"
        raise Refused(Refusal.NO_NODE, said, "wait until a node that has it is there again")
    boots = disk is _disk(replace(command, disk=""))
    return ImageImportRequested(
        image=command.image, node=NodeId(node), pool=disk.pool, file=source.disk.file, format=ImageFormat.QCOW2,
        boot=known.boot if boots else None, source=source if boots else replace(source, boot_image=""),
    )  # fmt: skip


def _disk(command: MakeImage) -> Disk:
    disks = tuple(disk for disk in command.known.disks if not disk.bus.is_cd)
    if not disks:
        said = f"{command.vm} has never run: there is nothing on its disks"
        raise Refused(Refusal.NOTHING_NEW, said, f"start {command.vm} first, or use the image that it is to stand on")
    if not command.disk:
        return disks[0]
    if (found := next((d for d in disks if d.name == command.disk), None)) is not None:
        return found
    has = ", ".join(d.name for d in disks)
    said = f"{command.vm} has no disk {command.disk}; it has {has}"
    raise Refused(Refusal.DEVICE_UNKNOWN, said, "name one that it has")


def _held(command: MakeImage, disk: Disk) -> Disk:
    """As the snapshot holds it."""
    known, name = command.known.snapshots, command.snapshot
    if name not in known:
        has = ", ".join(list(known)[:NAMES_MAX]) or "none"
        said = f"{command.vm} has no snapshot {name} that is taken; it has {has}"
        raise Refused(Refusal.SNAPSHOT_UNKNOWN, said, f"name one that it has, or take it: asvctl snapshot take {command.vm} {name}")
    at = next((i for i, layer in enumerate(disk.layers) if layer.file in known[name] and not layer.leaving), None)
    if at is None:
        said = f"{disk.name} of {command.vm} is not in the snapshot {name}"
        raise Refused(Refusal.DEVICE_UNKNOWN, said, "name a snapshot that was taken since it was attached")
    return _as_layer(disk, at)


def _resting(vm: str, disk: Disk) -> Disk:
    """Where no guest has run with its newest file, that may not be there, and there is nothing in it."""
    if disk.made:
        return disk
    if disk.layers:
        return _as_layer(disk, 0)
    said = f"{vm} has not run with {disk.name} yet: there is nothing on it"
    raise Refused(Refusal.NOTHING_NEW, said, f"start {vm} first, or use the image that it is to stand on")


def _as_layer(disk: Disk, at: int) -> Disk:
    layer: Layer = disk.layers[at]
    return replace(disk, file=layer.file, format=layer.format, layers=disk.layers[at + 1 :], made=True)

