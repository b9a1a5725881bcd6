"""Files of backups that disks stand on: found whole, opened by the agent, handed to QEMU at its birth. Blocking.

    <pool>/backups/<vm>/<backup>/<file>    root's own; no user of a VM can reach them

In a pool that is no folder it is a claim (backups/claims.py), and what it claims is read by QEMU from the pool's NBD server.

QEMU is given each open for reading, in a set whose word is the file's name: that is how chains.py knows which it has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from libs.common import backup_key
from libs.common.backup_key import BadBackupKey
from proto.machine import Disk, DiskFormat
from services.node.drivers import BadImage, CannotStart
from services.node.drivers.qemu import disks, layers, qcow2
from services.node.drivers.qemu.devices import Backing, Handed, fdset
from services.node.drivers.qemu.keyring import Keyring

OF_A_RUNNING = "a disk that stands on a backup is put into a VM before its start"


def any_of(wanted: Sequence[Disk]) -> bool:
    """Whether one of the disks is ordered to stand on a backup."""
    return any(layer.origin is not None for disk in wanted for layer in disk.layers)


def check(pools: Mapping[str, Path], disk: Disk) -> None:
    """Whether the disk can stand on a backup at all. Raises CannotStart."""
    if disk.format is not DiskFormat.QCOW2:
        raise CannotStart(f"{disk.name} is {disk.format}: only a qcow2 disk can stand on a backup")
    if disk.image:
        raise CannotStart(f"{disk.name} stands on a backup, which holds all of it, and not on the image {disk.image!r}")
    for layer in disk.layers:
        if (origin := layer.origin) is None or not origin.pool_id or origin.pool not in pools:
            continue  # a pool that is not there is told of when it is needed
        if (here := disks.id_of(pools[origin.pool])) != origin.pool_id:
            said = f"the backup {origin.backup} of {origin.vm} lies in the pool {origin.pool} {origin.pool_id}"
            raise CannotStart(f"{said}; {pools[origin.pool]} is another ({here}) of that name")


def hand(
    pools: Mapping[str, Path], found: Mapping[str, Sequence[Backing]], wanted: Sequence[Disk], open_files: ExitStack
) -> tuple[Handed, ...]:
    """Opens those that the disks stand on (found: what `layers.beneath` said, by the disk's name). Raises CannotStart."""
    return tuple(
        Handed(_open(path := layers.path_of(pools, disk, base), base, open_files), fdset(disk.slot, depth), path.name)
        for disk in wanted
        for depth, base in enumerate(found.get(disk.name, ()))
        if base.origin is not None
    )


def _open(path: Path, base: Backing, open_files: ExitStack) -> int:
    origin = base.origin
    assert origin is not None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise layers.damaged(origin, f"{path.name} cannot be opened ({error.strerror})") from error
    open_files.callback(os.close, fd)
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode):
        raise layers.damaged(origin, f"{path.name} is no plain file")
    size = seen.st_size if base.window is None else base.window.size
    if origin.bytes and size != origin.bytes:
        raise layers.damaged(origin, f"{path.name} has {size} bytes, and had {origin.bytes} when it was made")
    try:
        qcow2.check_whole(os.pread(fd, qcow2.HEADER_BYTES, 0) if base.window is None else layers.head_of(base.window, origin), size)
    except BadImage as bad:
        raise layers.damaged(origin, f"{path.name}: {bad}") from bad
    return fd


def keys(found: Mapping[str, Sequence[Backing]]) -> set[str]:
    """By which those that the disks stand on are encrypted. found: as for `hand`."""
    return {base.origin.key for beneath in found.values() for base in beneath if base.origin is not None and base.origin.key}


def variables(pools: Mapping[str, Path], ring: Keyring, disk: Disk) -> bytes | None:
    """The copy of a recovered VM's UEFI variables, as which its own begin; None: it stands on no backup that has one. Raises
    CannotStart where they are to be made, and the copy is not there, or cannot be opened."""
    origin = disk.layers[0].origin if disk.layers else None
    if not disk.vars_of or origin is None or (pools[disk.pool] / "disks" / disk.vars).exists():
        return None
    path = pools[origin.pool] / "backups" / origin.vm / origin.backup / disk.vars_of
    if not path.is_file():
        raise layers.damaged(origin, f"{path.name} with the UEFI variables is not there (any more)")
    if not origin.key:
        return path.read_bytes()
    try:
        return backup_key.opened(ring.key(origin.key), path.read_bytes())
    except BadBackupKey as bad:
        raise layers.damaged(origin, f"{path.name} with the UEFI variables: {bad}") from bad
