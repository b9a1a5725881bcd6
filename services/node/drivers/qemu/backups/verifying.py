"""A backup, and all that it stands on, is read again: every byte of every file, and what each header says that it stands on."""

from __future__ import annotations

import asyncio
import threading

from proto.backups import SavedDisk
from proto.node import OrderBackupVerify
from services.node.drivers import DriverError
from services.node.drivers.qemu import qcow2
from services.node.drivers.qemu.backups.layout import Shelf
from services.node.drivers.qemu.backups.media import digest

SENTENCE_CHARS_MAX = 400


async def verify(order: OrderBackupVerify, shelf: Shelf) -> tuple[dict[str, str], int]:
    """By backup, what is wrong with its own files; how many bytes were read."""
    gone = threading.Event()
    try:
        return await asyncio.to_thread(_verify, order, shelf, gone)
    finally:
        gone.set()


def _verify(order: OrderBackupVerify, shelf: Shelf, gone: threading.Event) -> tuple[dict[str, str], int]:
    found: dict[str, list[str]] = {}
    read = 0
    for name, saved in sorted(order.backups.items()):
        for disk in saved:
            said, bytes = what_is_wrong(shelf, name, disk, gone)
            found.setdefault(name, []).extend(said)
            read += bytes
    for disk_name in sorted({disk.disk for saved in order.backups.values() for disk in saved}):
        at, stands = _chain(order, shelf, disk_name)
        if stands:
            found.setdefault(at, []).append(stands)
    return {name: "; ".join(said)[:SENTENCE_CHARS_MAX] for name, said in found.items() if said}, read


def what_is_wrong(shelf: Shelf, backup: str, disk: SavedDisk, gone: threading.Event) -> tuple[list[str], int]:
    """With the files of one disk, a sentence for each; how many bytes were read."""
    said, read = [], 0
    for file, size, sha256 in ((disk.file, disk.bytes, disk.sha256), (disk.vars, -1, disk.vars_sha256)):
        path = shelf.folder(backup) / file
        if not file:
            continue
        if not path.is_file():
            said.append(f"{file} is not there (any more)")
            continue
        try:
            bytes, found = shelf.media.digest(path, gone) if file == disk.file else digest(path, gone)
        except (OSError, DriverError) as error:
            said.append(f"{file} cannot be read: {getattr(error, 'strerror', '') or error}")
            continue
        read += bytes
        if size >= 0 and bytes != size:
            said.append(f"{file} has {bytes} bytes, and {size} were written")
        elif found != sha256:
            said.append(f"{file} does not hold what was written (its SHA-256 is {found[:16]}…, not {sha256[:16]}…)")
    return said, read


def _chain(order: OrderBackupVerify, shelf: Shelf, disk: str) -> tuple[str, str]:
    """Which one does not stand on what it should, and how that is said; "": all do."""
    files = {name: d.file for name, saved in order.backups.items() for d in saved if d.disk == disk}
    at = order.backup
    while at in files:
        file = files.pop(at)
        path = shelf.folder(at) / file
        if not path.is_file():
            return at, ""  # which is said already, and what is beneath cannot be known
        try:
            named = qcow2.backing_name(path.name, shelf.media.head(path, qcow2.HEADER_BYTES))
        except (DriverError, OSError) as error:
            return at, f"{file}: {error}"
        below = next((name for name, other in files.items() if shelf.named(name, other) == named), "")
        if named and not below:
            return at, f"{file} stands on {named[:120]!r}, which is none of its backups"
        if not named and files:
            return at, f"{file} stands on nothing, and should on {', '.join(sorted(files))}"
        at = below
    return at, ""
