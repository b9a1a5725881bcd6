"""The files of a backup, opened for whoever reads it as it lies: found whole, in the order in which each disk stands on them.
Blocking.

A header says what a file stands on, `../BACKUP/FILE`; the manifest beside that file says how many bytes it has to have, and by
which key it is encrypted. What lies in a window of an export is no file that could be opened: its reader is told where it is.
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
from services.node.drivers.qemu.stores.settings import Window

_BELOW = re.compile(r"\.\./(b[0-9]+-[0-9]+)/([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


class Opened(msgspec.Struct, frozen=True):
    """at: the number of the open file, which is the caller's to close (open_chains), or the window in which it lies. key: by which
    it is encrypted, "": it is not."""

    at: int | Window
    key: str = ""


class OpenDisk(msgspec.Struct, frozen=True):
    """files: its own first."""

    name: str
    size_mib: int
    files: tuple[Opened, ...]


def open_chains(shelf: Shelf, backup: str, open_files: ExitStack) -> tuple[OpenDisk, ...]:
    """All disks of the backup. Raises DriverError where a file is not what was written, or what it lies in does not answer."""
    known: dict[str, Manifest] = {}
    manifest = _manifest(shelf, backup, known)
    return tuple(
        OpenDisk(saved.disk, saved.size_mib, _chain(shelf, backup, saved.disk, known, open_files)) for saved in manifest.disks
    )


def keys(disks: tuple[OpenDisk, ...]) -> set[str]:
    """By which they are encrypted."""
    return {file.key for disk in disks for file in disk.files if file.key}


def _manifest(shelf: Shelf, backup: str, known: dict[str, Manifest]) -> Manifest:
    if backup not in known:
        found = shelf.manifest(backup)
        if found is None:
            raise DriverError(f"the backup {backup} of {shelf.vm} is not there (any more)")
        known[backup] = found
    return known[backup]


def _chain(
    shelf: Shelf, backup: str, disk: str, known: dict[str, Manifest], open_files: ExitStack
) -> tuple[Opened, ...]:
    found: list[Opened] = []
    at = backup
    while True:
        manifest = _manifest(shelf, at, known)
        saved = next((one for one in manifest.disks if one.disk == disk), None)
        if saved is None:
            raise DriverError(f"the backup {at} of {shelf.vm} has no disk {disk}, and {backup} stands on it")
        path = shelf.folder(at) / saved.file
        try:
            place, head = _opened(shelf, path, saved.bytes, open_files)
        except OSError as error:
            said = f"{path.name} cannot be opened ({error.strerror or error}): see what asvctl backup verify says"
            raise DriverError(said) from error
        found.append(Opened(place, manifest.key))
        below = qcow2.backing_name(path.name, head)
        if not below:
            return tuple(found)
        named = _BELOW.fullmatch(below)
        if named is None or len(found) >= CHAIN_MAX:
            raise DriverError(f"{path.name} stands on {below[:120]!r}, which is no file of a backup")
        at = named[1]


def _opened(shelf: Shelf, path: Path, written: int, open_files: ExitStack) -> tuple[int | Window, bytes]:
    """With its beginning. Raises DriverError, OSError."""
    place: int | Window
    if (window := shelf.media.window(path)) is not None:
        place, size, head = window, window.size, shelf.media.head(path, qcow2.HEADER_BYTES)
    else:
        place, size = _open(path, open_files)
        head = os.pread(place, qcow2.HEADER_BYTES, 0)
    if size != written:
        raise DriverError(f"{path.name} has {size} bytes, and {written} were written: the backup is damaged")
    try:
        qcow2.check_whole(head, size)
    except BadImage as bad:
        raise DriverError(f"{path.name} is damaged: {bad}") from bad
    return place, head


def _open(path: Path, open_files: ExitStack) -> tuple[int, int]:
    """Its number and size. Raises DriverError, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    open_files.callback(os.close, fd)
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode):
        raise DriverError(f"{path.name} is no plain file: the backup is damaged")
    return fd, seen.st_size
