"""The files beneath a disk, as their headers say. Blocking.

A header is the truth about what a file stands on: an order may still name a layer that was merged since. Names are taken from the
order alone, and only compared with headers.

A disk that stands on a backup names it by a word that is no path, so that no tool opens it by chance: the agent alone does
(origins.py). A file of a backup names its parent relative to its own folder.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec

from proto.machine import Disk, DiskFormat, Layer, Origin
from services.node.drivers import CannotStart, DriverError
from services.node.drivers.qemu import qcow2
from services.node.drivers.qemu.backups import claims
from services.node.drivers.qemu.devices import LAYERS, Backing
from services.node.drivers.qemu.stores.nbd_line import Line
from services.node.drivers.qemu.stores.settings import Nbd, Remote, Window

READ_ONLY = 0o400
IN_BACKUP = "asv-backup"
"""how the name of a backup's file begins, in the header of a disk that stands on it"""


def backing_of(path: Path) -> str:
    """What the file's header says that it stands on; "": nothing. Raises DriverError."""
    with path.open("rb") as file:
        return qcow2.backing_name(str(path), file.read(qcow2.HEADER_BYTES))


def named(base: Backing, above: Backing | None = None) -> str:
    """How what stands on it names it: a file in the disks folder, or `above`, which is one of a backup."""
    if (origin := base.origin) is None:
        return base.file.removeprefix(LAYERS) if base.file.startswith(LAYERS) else f"../{base.file}"
    file = base.file.rpartition("/")[2]
    if above is None or above.origin is None:
        return f"{IN_BACKUP}/{origin.pool}/{origin.vm}/{origin.backup}/{file}"
    return f"../{origin.backup}/{file}" if (origin.pool, origin.vm) == (above.origin.pool, above.origin.vm) else ""


def ordered(disk: Disk, image: Backing | None) -> tuple[Backing, ...]:
    """What the order names beneath the disk, the image last."""
    layers = tuple(_backing(layer) for layer in disk.layers)
    return (*layers, image) if image is not None else layers


def _backing(layer: Layer) -> Backing:
    if (origin := layer.origin) is None:
        return Backing(f"{LAYERS}{layer.file}", layer.format)
    return Backing(f"backups/{origin.vm}/{origin.backup}/{layer.file}", layer.format, origin)


def path_of(pools: Mapping[str, Path], disk: Disk, base: Backing) -> Path:
    """Raises CannotStart where this node does not have the pool of a backup."""
    if base.origin is None:
        return pools[disk.pool] / base.file
    if base.origin.pool not in pools:
        said = f"the backup {base.origin.backup} of {base.origin.vm} lies in pool {base.origin.pool!r}"
        raise CannotStart(f"{disk.name} stands on a backup: {said}, which this node does not have")
    return pools[base.origin.pool] / base.file


def beneath(
    pools: Mapping[str, Path], disk: Disk, image: Backing | None, remotes: Mapping[str, Remote] | None = None
) -> tuple[Backing, ...]:
    """What the disk's file, which is there, stands on. remotes: pools that are no folders. Raises CannotStart where a header names
    what the order does not, or a file is not there."""
    names, found = list(ordered(disk, image)), []
    above: Backing | None = None
    file, format = pools[disk.pool] / LAYERS / disk.file, disk.format
    while format is DiskFormat.QCOW2 and (said := _said(file, above)):
        while names and named(names[0], above) != said:
            names.pop(0)
        if not names:
            raise CannotStart(f"{file.name} stands on {said[:120]!r}, of which the order knows nothing")
        above = names.pop(0)
        file, format = path_of(pools, disk, above), above.format
        if not file.is_file():
            if above.origin is not None:
                raise damaged(above.origin, f"{file.name} is not there (any more)")
            raise CannotStart(f"{file} is not there (any more), and {disk.name} stands on it; bring it back")
        above = _placed(above, file, remotes or {})
        found.append(above)
        if above == image:
            break
    return tuple(found)


def _said(file: Path, base: Backing | None) -> str:
    if base is None or base.window is None:
        return backing_of(file)
    assert base.origin is not None, "nothing else lies in a window"
    return qcow2.backing_name(file.name, head_of(base.window, base.origin))


def head_of(window: Window, origin: Origin) -> bytes:
    """The beginning of what lies there. Raises CannotStart where its server does not answer: that is no damage."""
    try:
        with Line(window.at, window.at.backups) as line:
            return line.read(window.offset, min(qcow2.HEADER_BYTES, window.size))
    except (OSError, struct.error) as error:
        said = f"the NBD server at {window.at.server}, where the backup {origin.backup} of {origin.vm} lies, does not answer"
        raise CannotStart(f"{said} ({error}): see that it runs") from error


def _placed(base: Backing, file: Path, remotes: Mapping[str, Remote]) -> Backing:
    """With the window in which it lies, where its pool is no folder."""
    if (origin := base.origin) is None or origin.pool not in remotes:
        return base
    at = remotes[origin.pool]
    if not isinstance(at, Nbd) or not at.backups:
        said = f"the backup {origin.backup} of {origin.vm} lies in pool {origin.pool}"
        raise CannotStart(f"{said}, which names no export for backups: add backups=EXPORT to it in ASV_POOLS")
    try:
        return msgspec.structs.replace(base, window=claims.read(file).window(at))
    except DriverError as error:
        raise damaged(origin, str(error)) from error


def damaged(origin: Origin, why: str) -> CannotStart:
    """Of a backup that cannot be stood on."""
    return CannotStart(f"the backup {origin.backup} of {origin.vm} in pool {origin.pool} is damaged: {why}")


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
