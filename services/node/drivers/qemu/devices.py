"""Disks and NICs in QEMU's words: the same for a command line and for a hot plug. Pure.

Block nodes are explicit, formats are stated, never probed. A device's id is made of its slot, not of its name: QEMU allows 31
characters, the first of them a letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from proto.machine import LAYERS_MAX, Disk, DiskBus, DiskFormat, Nic, NicKind, NicModel, Origin
from proto.models import DISKS
from services.node.drivers.qemu.stores import settings
from services.node.drivers.qemu.stores.settings import Remote, Window

type Words = dict[str, Any]

BYTES = 1024 * 1024
LIMIT_KEYS = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


LAYERS = "disks/"
"""the folder of a pool in which disks and their layers lie; images lie in another"""


class Backing(msgspec.Struct, frozen=True):
    """The file an overlay stands on, below its pool's folder, and its declared format. origin: it lies in a backup, whose pool may
    be another one; QEMU is given it open. window: what is in it lies there, and the file says no more than that."""

    file: str
    format: DiskFormat
    origin: Origin | None = None
    window: Window | None = None


FDSET = "/dev/fdset/"
"""how QEMU names a set of files that it was given open"""


def fdset(slot: int, depth: int) -> int:
    """The set of a file beneath a disk, which no other has."""
    return 1 + slot * LAYERS_MAX + depth


def slot_of(into: int) -> int:
    """The disk beneath which a set's file is."""
    return (into - 1) // LAYERS_MAX


class Handed(msgspec.Struct, frozen=True):
    """A file that the process inherits open: its number, the set that it is to be in, its name."""

    fd: int
    into: int
    file: str

    def words(self) -> tuple[str, str]:
        """For a command line."""
        return "-add-fd", f"fd={self.fd},set={self.into},opaque={self.file}"


def secret_id(key: str) -> str:
    """How a QEMU names a key of backups, by which it opens files of theirs."""
    return f"key-{key}"


def disk_id(slot: int) -> str:
    return f"disk{slot}"


def nic_id(slot: int) -> str:
    return f"nic{slot}"


def device_id(id: str) -> str:
    """Of the device that stands on a block node or a network backend of that name."""
    return f"{id}-dev"


def disk_nodes(
    disk: Disk, folder: str, direct: bool, beneath: Sequence[Backing], remote: Remote | None = None
) -> list[Words]:
    """The block nodes below a disk, in the order in which they are made. beneath: what its file stands on, the image last; remote:
    its pool is no folder."""
    id = disk_id(disk.slot)
    if remote is not None:
        return settings.disk_nodes(disk, id, remote)
    nodes: list[Words] = []
    below: str | None = None
    for depth, base in reversed(tuple(enumerate(beneath))):
        own, layer = base.file.startswith(LAYERS), base.file.startswith(LAYERS) or base.origin is not None
        name = f"{id}-l{depth}" if layer else f"{id}-base"
        if base.window is not None:  # by the file that it is given open it is known which backup's that is
            nodes.append(_file(f"{name}-claim", f"{FDSET}{fdset(disk.slot, depth)}", direct=False, read_only=True))
            nodes.append(settings.window_node(f"{name}-file", base.window, writes=False))
        elif base.origin is not None:  # nobody writes it any more: the host's cache may hold it for all that read it
            nodes.append(_file(f"{name}-file", f"{FDSET}{fdset(disk.slot, depth)}", direct=False, read_only=True))
        else:
            nodes.append(_file(f"{name}-file", f"{folder}/{base.file}", direct=direct, read_only=not own, opens_late=own))
        node: Words = {"driver": base.format.value, "node-name": name, "file": f"{name}-file", "read-only": True}
        if layer and base.format is DiskFormat.QCOW2:
            node["backing"] = below
        if base.origin is not None and base.origin.key:
            node["encrypt"] = {"format": "luks", "key-secret": secret_id(base.origin.key)}
        nodes.append(node)
        below = name
    return [*nodes, *top_nodes(disk, folder, direct, id, below)]


def top_nodes(disk: Disk, folder: str, direct: bool, name: str, below: str | None) -> list[Words]:
    """The disk's own file, as the guest writes it."""
    top: Words = {"driver": disk.format.value, "node-name": name, "file": f"{name}-file"}
    top |= {"read-only": False, "discard": "unmap"}
    if disk.format is DiskFormat.QCOW2:
        top["backing"] = below
    return [_file(f"{name}-file", f"{folder}/{LAYERS}{disk.file}", direct=direct, read_only=False), top]


def over_id(slot: int, token: str) -> str:
    """The block node of a file that is put on top while the VM runs."""
    return f"{disk_id(slot)}-s{token}"


def disk_devices(disk: Disk) -> list[Words]:
    """What the guest sees of it, in the order in which it is made; the last one has the disk."""
    id, port = disk_id(disk.slot), f"port{disk.slot}"
    own: Words = {"id": device_id(id), "drive": id, "serial": disk.serial, "bootindex": boot_index(disk)}
    if DISKS[disk.bus].waits_for_space:  # a full pool stops the guest, which goes on once there is room; other errors it is told of
        own |= {"werror": "enospc", "rerror": "report"}
    match disk.bus:
        case DiskBus.VIRTIO_BLK:
            return [{"driver": "virtio-blk-pci", "bus": port, "write-cache": "on", **own}]
        case DiskBus.NVME:
            return [{"driver": "nvme", "bus": port, **own}]
        case DiskBus.VIRTIO_SCSI:  # a controller of its own: one queue lock, and one slot, for each disk
            controller: Words = {"driver": "virtio-scsi-pci", "id": f"{id}-bus", "bus": port}
            return [controller, {"driver": "scsi-hd", "bus": f"{id}-bus.0", "write-cache": "on", **own}]
        case DiskBus.CDROM | DiskBus.SATA_CDROM:
            raise ValueError(f"{disk.name} is a CD drive")


def boot_index(disk: Disk) -> int:
    return 0 if disk.first else disk.slot + 1


def medium_id(slot: int, image: str) -> str:
    """The block node of what lies in a drive: another for each image, so that one is known from the next."""
    return f"cd{slot}-{sha256(image.encode()).hexdigest()[:12]}"


def medium_nodes(disk: Disk, folder: str, iso: Backing | None) -> list[Words]:
    """In the order in which they are made. iso: of an image; else it is the drive's own file. Through the host's cache: several
    guests may read the same ISO."""
    id = medium_id(disk.slot, disk.image or disk.file)
    path = iso.file if iso is not None else f"disks/{disk.file}"
    file = _file(f"{id}-file", f"{folder}/{path}", direct=False, read_only=True)
    return [file, {"driver": "raw", "node-name": id, "file": f"{id}-file", "read-only": True}]


def cd_devices(disk: Disk, number: int) -> list[Words]:
    """A drive, with what lies in it. number: of those on the board's own controller."""
    id = disk_id(disk.slot)
    own: Words = {"id": device_id(id), "serial": disk.serial, "bootindex": boot_index(disk)}
    if disk.image or disk.file:
        own["drive"] = medium_id(disk.slot, disk.image or disk.file)
    if disk.bus is DiskBus.SATA_CDROM:
        return [{"driver": "ide-cd", "bus": f"ide.{number}", **own}]
    controller: Words = {"driver": "virtio-scsi-pci", "id": f"{id}-bus", "bus": f"port{disk.slot}"}
    return [controller, {"driver": "scsi-cd", "bus": f"{id}-bus.0", **own}]


def flash_nodes(id: str, path: str, *, read_only: bool, direct: bool = False) -> list[Words]:
    """The block nodes below a flash chip, in the order in which they are made. direct: past the host's cache, as all that is
    written into a pool: what a killed QEMU left in the cache would land there after its lock is gone."""
    file = _file(f"{id}-file", path, direct=direct, read_only=read_only)
    return [file, {"driver": "raw", "node-name": id, "file": f"{id}-file", "read-only": read_only}]


def nic_backend(nic: Nic, queues: Sequence[str] = ()) -> Words:
    """queues: what the tap's open files are called."""
    if nic.kind is NicKind.USER:
        # restrict: DHCP and nothing else, neither the host (10.0.2.2 is its loopback) nor the world behind it.
        return {"type": "user", "id": nic_id(nic.slot), "restrict": True, "ipv6": False}
    fds = {"fd": queues[0]} if len(queues) == 1 else {"fds": ":".join(queues)}
    return {"type": "tap", "id": nic_id(nic.slot), **fds, "vhost": False}


def nic_device(nic: Nic) -> Words:
    id = nic_id(nic.slot)
    driver = "virtio-net-pci" if nic.model is NicModel.VIRTIO else "e1000e"
    own: Words = {"id": device_id(id), "bus": f"port{nic.slot}", "netdev": id, "mac": nic.mac, "romfile": ""}
    if nic.model is NicModel.VIRTIO:
        if nic.queues > 1:  # an interrupt for each queue, one for its configuration, one to spare
            own |= {"mq": True, "vectors": 2 * nic.queues + 2}
        if nic.mtu:
            own["host_mtu"] = nic.mtu
    return {"driver": driver, **own}


def limits(disk: Disk) -> Words:
    """For block_set_io_throttle, which wants all keys; nothing but zeros lifts every limit."""
    wish = disk.limits
    words: Words = dict.fromkeys(LIMIT_KEYS, 0)
    words |= {"bps": wish.mibps * BYTES, "iops": wish.iops}
    if wish.mibps_burst:
        words["bps_max"] = wish.mibps_burst * BYTES
    if wish.iops_burst:
        words["iops_max"] = wish.iops_burst
    return words


def _file(name: str, path: str, *, direct: bool, read_only: bool, opens_late: bool = False) -> Words:
    """opens_late: for writing only while a layer beneath it is merged into it."""
    return {
        "driver": "file",
        "node-name": name,
        "filename": path,
        "locking": "on",
        "read-only": read_only,
        "auto-read-only": opens_late,
        "cache": {"direct": direct, "no-flush": False},
        "discard": "unmap",
        "aio": "threads",
    }
