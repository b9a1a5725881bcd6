"""A backup is removed. Those that stand on it are first written anew, on what it stands on: all beside the files that are there,
then in their place, under the same names, which the headers of those above them have. Whoever has the former open reads on.

    all F checked ── all F.new filled by QEMU (block-stream), sealed ── each renamed over its F ── manifests ── the backup goes

Refused anywhere before the first is renamed, nothing was changed. Cut short anywhere, each F is whole: it stands on the backup
still, or no more, as its header says; said again, it goes on from there. What is damaged is not merged: it would pass for sound.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from proto.backups import BackupKind, SavedDisk
from proto.node import OrderBackupRemoval
from services.node.drivers import CannotStart, DriverError, NotBackedUp
from services.node.drivers.qemu import qcow2
from services.node.drivers.qemu.backups import layout, targets
from services.node.drivers.qemu.backups.cipher import Cipher
from services.node.drivers.qemu.backups.jobs import PREFIX, Jobs
from services.node.drivers.qemu.backups.layout import Shelf
from services.node.drivers.qemu.backups.verifying import what_is_wrong
from services.node.drivers.qemu.backups.watching import watched
from services.node.drivers.qemu.bare import Bare, Wanted, bare

JOB = f"{PREFIX}0"
NEW = ".new"
FULL = os.strerror(errno.ENOSPC)
WRONG_KEY = "Invalid password"
"""in QEMU's words"""


class Removing(msgspec.Struct, frozen=True):
    """wanted: the QEMU that does it, which reaches nothing but what it is handed, and the pool's NBD server where it has one.
    cipher: by which all that is written anew, and what it stands on, is encrypted."""

    order: OrderBackupRemoval
    shelf: Shelf
    cipher: Cipher
    wanted: Wanted

    def below(self, disk: str) -> str:
        """As the header of one that stands on it is to say."""
        below = self.order.below
        return self.shelf.named(below, self.shelf.file_of(disk, below)) if below else ""

    def itself(self, disk: str) -> str:
        return self.shelf.named(self.order.backup, self.shelf.file_of(disk, self.order.backup))


async def remove(
    order: OrderBackupRemoval, shelf: Shelf, cipher: Cipher, wanted: Wanted
) -> dict[str, tuple[SavedDisk, ...]]:
    """As Driver.remove_backup. Raises OSError too."""
    job, gone = Removing(order, shelf, cipher, wanted), threading.Event()
    try:
        bound = await asyncio.to_thread(_bound, job)
        try:
            await asyncio.to_thread(_check, job, bound, gone)
            for heir, disk in bound:
                await _anew(job, shelf.folder(heir) / disk.file, disk)
        except NotBackedUp as error:
            if len(bound) < sum(map(len, order.heirs.values())):
                raise DriverError(f"it was begun, and cannot be gone on with: {error}") from error
            raise
        await asyncio.to_thread(_put, job, bound)
        heirs = {name: await asyncio.to_thread(_noted, job, name, gone) for name in sorted(order.heirs)}
    finally:
        gone.set()
        await asyncio.to_thread(_sweep, job)
    await asyncio.to_thread(shelf.remove, order.backup)
    return heirs


def _bound(job: Removing) -> list[tuple[str, SavedDisk]]:
    """The files that stand on it still, each with its backup. Raises NotBackedUp."""
    _sweep(job)
    found = []
    for heir in sorted(job.order.heirs):
        if job.shelf.manifest(heir) is None:
            raise NotBackedUp(f"{heir}, which stands on it, is not there: nothing was removed")
        found += [(heir, disk) for disk in job.order.heirs[heir] if _stands_on(job, heir, disk)]
    return found


def _sweep(job: Removing) -> None:
    for heir, disks in job.order.heirs.items():
        for disk in disks:
            new = job.shelf.folder(heir) / f"{disk.file}{NEW}"
            if new.exists():  # which a QEMU that was killed may have written
                job.shelf.media.empty(new, clean=False)
                with job.shelf.media.changing():
                    new.unlink()


def _noted(job: Removing, heir: str, gone: threading.Event) -> tuple[SavedDisk, ...]:
    """Its files as they are now, of which its manifest knows."""
    folder, saved = job.shelf.folder(heir), []
    for disk in job.order.heirs[heir]:
        bytes, sha256 = job.shelf.media.digest(folder / disk.file, gone)
        saved.append(msgspec.structs.replace(disk, bytes=bytes, sha256=sha256))
    manifest = job.shelf.manifest(heir)
    assert manifest is not None, "it was there a moment ago, and nobody else removes any"
    kind = BackupKind.INCREMENTAL if job.order.below else BackupKind.FULL
    done = msgspec.structs.replace(manifest.done, disks=tuple(saved), parent=job.order.below, kind=kind)
    wanted = msgspec.structs.replace(manifest, disks=done.disks, parent=done.parent, kind=kind, done=done)
    if wanted != manifest:
        layout.write(folder, wanted)
    return tuple(saved)


def _stands_on(job: Removing, heir: str, disk: SavedDisk) -> bool:
    """Whether its file still does. Raises NotBackedUp where it stands on something else."""
    path = job.shelf.folder(heir) / disk.file
    if not path.is_file():
        raise NotBackedUp(f"{disk.file} of {heir}, which stands on it, is not there: nothing was removed")
    named = _named(job, path)
    if named == job.itself(disk.disk):
        return True
    if named == job.below(disk.disk):
        return False
    raise NotBackedUp(f"{disk.file} of {heir} stands on {named[:120]!r}, which it should not: nothing was removed")


def _check(job: Removing, bound: list[tuple[str, SavedDisk]], gone: threading.Event) -> None:
    """What is merged is what was written. Raises NotBackedUp."""
    own = job.shelf.manifest(job.order.backup)
    files = {disk.disk: disk for disk in own.disks} if own is not None else {}
    for heir, disk in bound:
        if disk.disk not in files:
            raise NotBackedUp(f"{job.order.backup} has no disk {disk.disk} (any more), on which {heir} stands: nothing was removed")
    wanted = [*bound, *((job.order.backup, files[name]) for name in sorted({disk.disk for _, disk in bound}))]
    for name, one in wanted:
        if wrong := what_is_wrong(job.shelf, name, one, gone)[0]:
            raise NotBackedUp(f"{name} is damaged ({wrong[0]}), and was not merged; remove those that stand on it first")
    for name in sorted({disk.disk for _, disk in bound}):
        file = files[name].file
        if (named := _named(job, job.shelf.folder(job.order.backup) / file)) != job.below(name):
            raise NotBackedUp(f"{file} stands on {named[:99]!r}, not on {job.order.below or 'nothing'}: nothing was removed")


async def _anew(job: Removing, path: Path, disk: SavedDisk) -> None:
    """The file is written anew beside it, on what is below. Raises NotBackedUp, DriverError, OSError."""
    new, below = path.with_name(path.name + NEW), job.below(disk.disk)
    middle = path.parent / job.itself(disk.disk)
    head, inside = await asyncio.to_thread(_head, job, path), await asyncio.to_thread(_head, job, middle)
    compressed = bool((head.features | inside.features) & qcow2.COMPRESSION)

    def draw(file: Path) -> None:
        job.cipher.saved(file, head.virtual_bytes, below, compressed=compressed)

    try:
        await asyncio.to_thread(job.shelf.media.make, new, head.virtual_bytes, draw)
        chain = [*([path.parent / below] if below else []), middle, path]
        async with bare(job.wanted) as writer:
            end = await _filled(job, writer, chain, new, below, compressed=compressed)
            await writer.quit()
        await asyncio.to_thread(job.shelf.media.seal, new, end)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NotBackedUp(await asyncio.to_thread(_no_room, job, path)) from error
        raise
    except CannotStart as error:
        said = await asyncio.to_thread(_no_room, job, path) if FULL in str(error) else f"{error}; nothing was removed"
        raise NotBackedUp(said) from error


def _head(job: Removing, path: Path) -> qcow2.Header:
    return qcow2.parse(job.shelf.media.head(path, qcow2.HEADER_BYTES))


def _named(job: Removing, path: Path) -> str:
    """What it says that it stands on."""
    return qcow2.backing_name(path.name, job.shelf.media.head(path, qcow2.HEADER_BYTES))


def _put(job: Removing, bound: list[tuple[str, SavedDisk]]) -> None:
    """Each in the place of its file."""
    for heir, disk in bound:
        path = job.shelf.folder(heir) / disk.file
        job.shelf.media.replace(path.with_name(path.name + NEW), path)


async def _filled(job: Removing, writer: Bare, chain: list[Path], new: Path, below: str, *, compressed: bool) -> int:
    """All that the last two of the chain hold is in the new file; where what was written ends. chain: the lowest first."""
    node = None
    async with job.cipher.told(writer):
        for number, path in enumerate(chain):
            await _open(job, writer, f"read{number}", path, node, writes=False)
            node = f"read{number}"
        own = await _open(job, writer, JOB, new, node, writes=True)
    top = JOB
    if compressed:
        top = f"{JOB}-packed"
        await writer.do("blockdev-add", {"driver": "compress", "node-name": top, "file": JOB})
    jobs = Jobs()
    jobs.expect([JOB])
    writer.hears.append(jobs.hear)
    writer.at_end(lambda: jobs.end("its QEMU ended"))
    onto = {"base-node": "read0", "backing-file": below} if below else {}
    await writer.do("block-stream", {"job-id": JOB, "device": top, "on-error": "report", **onto})
    async with watched(job.shelf.media, writer, jobs):
        await jobs.turned()
    if said := jobs.ended()[JOB]:
        full = FULL in said
        raise NotBackedUp(await asyncio.to_thread(_no_room, job, new) if full else f"{new.name} could not be written: {said}"[:400])
    # its tables are written out where it is opened anew, as it is by now: on what is below
    return await _flushed(writer, own, "read0" if below else None)


async def _flushed(writer: Bare, own: dict[str, Any], below: str | None) -> int:
    await writer.do("blockdev-reopen", {"options": [{**own, "backing": below}]})
    return await targets.end_of(writer, str(own["file"]))


async def _open(job: Removing, writer: Bare, name: str, path: Path, below: str | None, *, writes: bool) -> dict[str, Any]:
    await writer.do("blockdev-add", await job.shelf.media.node(writer, f"{name}-file", path, writes=writes))
    words = {"driver": "qcow2", "node-name": name, "file": f"{name}-file", "read-only": not writes, "backing": below}
    words |= job.cipher.words
    try:
        await writer.do("blockdev-add", words)
    except DriverError as error:
        if job.cipher.key is None or WRONG_KEY not in str(error):
            raise
        raise NotBackedUp(f"{path.name} is not encrypted by the key {job.cipher.key.id}: nothing was removed") from error
    return words


def _no_room(job: Removing, path: Path) -> str:
    """Blocking."""
    free, size = (bytes >> 20 for bytes in job.shelf.media.room())
    with suppress(OSError, DriverError):
        need = job.shelf.media.size(path) >> 20
        return f"there is no room to write {path.name} ({need} MiB) anew: {free} MiB of {size} MiB are free; nothing was removed"
    return f"there is no room to write {path.name} anew: {free} MiB of {size} MiB are free; nothing was removed"
