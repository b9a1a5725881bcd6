"""The files of a backup, opened for whoever reads it as it lies: found whole, in the order in which each disk stands on them.
Blocking.

A header says what a file stands on, `../BACKUP/FILE`; the manifest beside that file says how many bytes it has to have.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack
from pathlib import Path

import msgspec

from proto.backups import CHAIN_MAX
from services.node.drivers import BadImage, DriverError
from services.node.drivers.qemu import qcow2
from services.node.drivers.qemu.backups.layout import Manifest, Shelf
from services.node.drivers.qemu.layers import backing_of

_BELOW = re.compile(r"\.\./(b[0-9]+-[0-9]+)/([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


class OpenDisk(msgspec.Struct, frozen=True):
    """fds: of its files, its own first; they are the caller's to close (open_chains)."""

    name: str
    size_mib: int
    fds: tuple[int, ...]


def open_chains(shelf: Shelf, backup: str, open_files: ExitStack) -> tuple[OpenDisk, ...]:
    """All disks of the backup. Raises DriverError where a file is not what was written."""
    known: dict[str, Manifest] = {}
    manifest = _manifest(shelf, backup, known)
    return tuple(
        OpenDisk(saved.disk, saved.size_mib, _chain(shelf, backup, saved.disk, known, open_files)) for saved in manifest.disks
    )


def _manifest(shelf: Shelf, backup: str, known: dict[str, Manifest]) -> Manifest:
    if backup not in known:
        found = shelf.manifest(backup)
        if found is None:
            raise DriverError(f"the backup {backup} of {shelf.vm} is not there (any more)")
        known[backup] = found
    return known[backup]


def _chain(shelf: Shelf, backup: str, disk: str, known: dict[str, Manifest], open_files: ExitStack) -> tuple[int, ...]:
    fds: list[int] = []
    at = backup
    while True:
        saved = next((one for one in _manifest(shelf, at, known).disks if one.disk == disk), None)
        if saved is None:
            raise DriverError(f"the backup {at} of {shelf.vm} has no disk {disk}, and {backup} stands on it")
        path = shelf.folder(at) / saved.file
        fds.append(_open(path, saved.bytes, open_files))
        below = backing_of(path)
        if not below:
            return tuple(fds)
        found = _BELOW.fullmatch(below)
        if found is None or len(fds) >= CHAIN_MAX:
            raise DriverError(f"{path.name} stands on {below[:120]!r}, which is no file of a backup")
        at = found[1]


def _open(path: Path, bytes: int, open_files: ExitStack) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise DriverError(f"{path.name} cannot be opened ({error.strerror}): see what asvctl backup verify says") from error
    open_files.callback(os.close, fd)
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode) or seen.st_size != bytes:
        raise DriverError(f"{path.name} has {seen.st_size} bytes, and {bytes} were written: the backup is damaged")
    try:
        qcow2.check_whole(os.pread(fd, qcow2.HEADER_BYTES, 0), seen.st_size)
    except BadImage as bad:
        raise DriverError(f"{path.name} is damaged: {bad}") from bad
    return fd
