"""The files beneath a disk, as their headers say. Blocking.

A header is the truth about what a file stands on: an order may still name a layer that was merged since. Names are taken from the
order alone, and only compared with headers.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from proto.machine import Disk, DiskFormat
from services.node.drivers import CannotStart, DriverError
from services.node.drivers.qemu import qcow2
from services.node.drivers.qemu.devices import LAYERS, Backing

NAME_BYTES_MAX = 1023
"""of a backing file, in a qcow2 header"""
READ_ONLY = 0o400


def backing_of(path: Path) -> str:
    """What the file's header says that it stands on; "": nothing. Raises DriverError."""
    with path.open("rb") as file:
        head = file.read(32)
        if len(head) < 20 or head[:4] != qcow2.MAGIC:
            return ""
        offset, length = struct.unpack_from(">QI", head, 8)
        if not offset:
            return ""
        if length > NAME_BYTES_MAX:
            raise DriverError(f"{path} names a backing file in {length} bytes: its header is damaged")
        file.seek(offset)
        return file.read(length).decode(errors="replace")


def named(base: Backing) -> str:
    """How a file in the disks folder names what it stands on."""
    return base.file.removeprefix(LAYERS) if base.file.startswith(LAYERS) else f"../{base.file}"


def ordered(disk: Disk, image: Backing | None) -> tuple[Backing, ...]:
    """What the order names beneath the disk, the image last."""
    layers = tuple(Backing(f"{LAYERS}{layer.file}", layer.format) for layer in disk.layers)
    return (*layers, image) if image is not None else layers


def beneath(pool: Path, disk: Disk, image: Backing | None) -> tuple[Backing, ...]:
    """What the disk's file, which is there, stands on. Raises CannotStart where a header names what the order does not, or a
    file is not there."""
    names, found = list(ordered(disk, image)), []
    file, format = pool / LAYERS / disk.file, disk.format
    while format is DiskFormat.QCOW2 and (said := backing_of(file)):
        while names and named(names[0]) != said:
            names.pop(0)
        if not names:
            raise CannotStart(f"{file.name} stands on {said[:120]!r}, of which the order knows nothing")
        base = names.pop(0)
        found.append(base)
        file, format = pool / base.file, base.format
        if not file.is_file():
            raise CannotStart(f"{file} is not there (any more), and {disk.name} stands on it; bring it back")
        if base is image:
            break
    return tuple(found)


def seal(path: Path, uid: int | None) -> None:
    """A layer is its VM's, which does not write it: who would is told by its mode (disks.own)."""
    seen = path.lstat()
    if not stat.S_ISREG(seen.st_mode):
        raise CannotStart(f"{path} is not a plain file; a layer must be one")
    if uid is not None and (seen.st_uid, seen.st_gid) != (uid, uid):
        os.chown(path, uid, uid, follow_symlinks=False)
    if stat.S_IMODE(seen.st_mode) != READ_ONLY:
        path.chmod(READ_ONLY)


def stood_on(pool: Path, vm: str, files: set[str]) -> str:
    """A file of the VM that stands on one of these and is none of them; "": there is none."""
    for path in sorted((pool / LAYERS).glob(f"{vm}-*")):
        if path.name not in files and path.is_file() and backing_of(path) in files:
            return path.name
    return ""
