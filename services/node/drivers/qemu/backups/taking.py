"""A backup being taken: QEMU's jobs copy all disks as they are at one instant, into files that the agent made and opened.

    prepare: files, nodes ── begin: the instant (instant.py) ── run ── let_go ── publish ── forget_older
       └ undo, from everywhere: jobs, nodes, open files, the new bitmaps and the folder are gone; the parent's bitmaps stay
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from libs.common.clock import Clock
from proto.backups import BackupDone, BackupKind, SavedDisk
from proto.machine import Disk
from proto.node import OrderBackup
from services.node.drivers import CannotStart, DriverError, NotBackedUp
from services.node.drivers.qemu.backups import filled, instant, media, targets
from services.node.drivers.qemu.backups.cipher import Cipher
from services.node.drivers.qemu.backups.jobs import PREFIX, Blocks, Jobs, sweep
from services.node.drivers.qemu.backups.layout import Manifest, Shelf
from services.node.drivers.qemu.backups.media import Media
from services.node.drivers.qemu.backups.sources import Source, age_of, bitmap_of, of_pool, sources, why_full
from services.node.drivers.qemu.backups.watching import watched
from services.node.drivers.qemu.freezer import Freezer

MIB = 1 << 20
ENDS_S_MAX = 5.0
"""one that was killed is gone by then"""
FULL = os.strerror(errno.ENOSPC)


@dataclass
class Taking:
    """blocks: the QEMU that has the disks; ended: once it has; freezer: of a guest that runs, None: the VM is at rest. media:
    what the pool's backups are written to. variables: where the UEFI variables of each disk are, by its name. cipher: by which
    its files are encrypted."""

    order: OrderBackup
    pool: Path
    blocks: Blocks
    jobs: Jobs
    clock: Clock
    media: Media
    ended: asyncio.Event
    cipher: Cipher
    freezer: Freezer | None = None
    variables: dict[str, Path] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    filled: set[int] = field(default_factory=set)
    """slots of disks of which only that is read which is not zero"""
    done: BackupDone = field(default_factory=lambda: BackupDone(kind=BackupKind.FULL, disks=(), at_us=0))
    ends: dict[str, int] = field(default_factory=dict)
    """by the disk's name, where what QEMU wrote for it ends"""
    gone: threading.Event = field(default_factory=threading.Event)
    """set once nobody waits for what a thread does"""
    begun: float = field(default_factory=time.monotonic)
    thread: asyncio.Future[Any] | None = None

    async def _aside[T](self, work: Callable[[], T]) -> T:
        """In a thread, which `undo` waits for: it cannot be cancelled."""
        self.thread = thread = asyncio.ensure_future(asyncio.to_thread(work))
        return await asyncio.shield(thread)

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.pool, self.order.vm, self.media)

    @property
    def bitmap(self) -> str:
        return bitmap_of(self.order.pool, self.order.backup)

    # --- before the instant -----------------------------------------------------------------------------------------

    async def prepare(self, tops: dict[str, str], disks: tuple[Disk, ...]) -> None:
        """tops: as `sources`. Raises DriverError, OSError."""
        await self.jobs.clear(self.blocks)
        await self._aside(self.shelf.clear_strays)
        self.sources = await sources(self.blocks, tops, disks)
        await self._drop_useless()
        why = self.order.why_full
        if self.order.parent:
            why = await self._aside(lambda: why_full(self.shelf, self.order, self.sources))
        parent = "" if why else self.order.parent
        kind = BackupKind.INCREMENTAL if parent else BackupKind.FULL
        self.done = msgspec.structs.replace(self.done, kind=kind, parent=parent, sentence=why, key=self.order.key)
        await self._aside(lambda: self.shelf.begin(self.order.backup))
        async with self.cipher.told(self.blocks):
            for source in self.sources:
                await self._target(source)
        for source in self.sources:
            if await filled.found(self.blocks, source, full=not self.done.parent):
                self.filled.add(source.disk.slot)

    async def _drop_useless(self) -> None:
        """Bitmaps of backups of this pool that failed, or are older than the newest: what is written costs a little in each."""
        mine = {b.name for s in self.sources for b in s.bitmaps if of_pool(self.order.pool, b.name)} - {self.bitmap}
        newest = max(mine, key=age_of, default="")
        for source in self.sources:
            for bitmap in source.bitmaps:
                if bitmap.name == self.bitmap or (bitmap.name in mine and bitmap.name not in (newest, self._parents())):
                    await self._away(source, bitmap.name)

    def _parents(self) -> str:
        return bitmap_of(self.order.pool, self.order.parent)

    def _file(self, source: Source) -> str:
        return self.shelf.file_of(source.disk.name, self.order.backup)

    async def _target(self, source: Source) -> None:
        """An empty file, and its nodes in QEMU, which is handed it open."""
        base, name, shelf = "", f"{PREFIX}{source.disk.slot}", self.shelf
        if self.done.parent:
            base = shelf.named(self.done.parent, shelf.file_of(source.disk.name, self.done.parent))
        path = shelf.making(self.order.backup) / self._file(source)

        def draw(file: Path) -> None:
            self.cipher.saved(file, source.bytes, base, compressed=self.order.compress)

        try:
            await self._aside(lambda: self.media.make(path, source.bytes, draw))
        except CannotStart as error:
            said = await self._room() if FULL in str(error) else f"the backup cannot be written: {error}"
            raise NotBackedUp(said) from error
        await targets.add(self.blocks, name, self.media, path, source.bytes, compress=self.order.compress, cipher=self.cipher.words)

    # --- the instant --------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Raises DriverError, OSError; NotBackedUp where file systems do not stand still and have to."""
        self.jobs.expect(f"{PREFIX}{source.disk.slot}" for source in self.sources)
        if self.freezer is not None:
            self.done = msgspec.structs.replace(self.done, normal=instant.usual(await self.blocks.do("query-blockstats")))
        parents, runs = self._parents() if self.done.parent else "", self.freezer is not None
        actions = instant.actions(self.order, self.bitmap, parents, self.sources, self.filled, runs=runs)
        beside = partial(self._aside, self._copy_variables)
        seen = await instant.seen(self.order, self.blocks, self.clock, self.freezer, actions, beside)
        said = "; ".join(part for part in (self.done.sentence, *seen.said) if part)
        self.done = msgspec.structs.replace(
            self.done, at_us=seen.at_us, consistency=seen.consistency, frozen_ms=seen.frozen_ms, sentence=said
        )

    def _copy_variables(self) -> None:
        for name, path in self.variables.items():
            self.cipher.copied(path, self.shelf.making(self.order.backup) / self.shelf.vars_of(name, self.order.backup))

    # --- behind it ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until all is copied. Raises NotBackedUp, DriverError."""
        among = len(self.sources)
        async with watched(self.media, self.blocks, self.jobs):
            while self.jobs.unended():
                among = await self._paced(among)
                await self.jobs.turned()
                await self._check()
            await self._check()
        copied, _ = await self.jobs.progress(self.blocks)
        self.done = msgspec.structs.replace(self.done, copied_mib=-(-copied // MIB))

    async def _check(self) -> None:
        """Raises NotBackedUp where one of them did not end well."""
        if said := next(filter(None, self.jobs.ended().values()), ""):
            raise NotBackedUp(await self._why(said))

    async def _paced(self, among: int) -> int:
        """Those that go on share the rate; how many do."""
        left = self.jobs.unended()
        for job in left if self.order.rate_mibps and len(left) < among else ():
            with suppress(DriverError):  # it may have ended by now
                await self.blocks.do("block-job-set-speed", {"device": job, "speed": instant.share(self.order, len(left))})
        return len(left)

    async def _why(self, said: str) -> str:
        if self.jobs.reason:
            return f"given up: {self.jobs.reason}"
        return await self._room() if FULL in said else f"copying a disk of {self.order.vm} ended: {said}"[:400]

    async def _room(self) -> str:
        return await self._aside(lambda: self.shelf.how_full(self.order.pool, self.order.backup))

    async def let_go(self) -> None:
        """Of QEMU's nodes and the open files, once all is in them. Raises NotBackedUp, DriverError."""
        for source in self.sources:
            try:
                self.ends[source.disk.name] = await targets.flush(self.blocks, f"{PREFIX}{source.disk.slot}", self.cipher.words)
            except DriverError as error:
                if FULL not in str(error):
                    raise
                raise NotBackedUp(await self._room()) from error
        await self._check()
        for source in self.sources:
            await filled.away(self.blocks, source)
        await sweep(self.blocks)
        self.jobs.forget()

    async def publish(self) -> BackupDone:
        """Written out, digested, and there from then on. Raises NotBackedUp, OSError."""
        try:
            return await self._aside(self._publish)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise NotBackedUp(await self._room()) from error

    def _publish(self) -> BackupDone:
        folder, order = self.shelf.making(self.order.backup), self.order
        saved = []
        for source in self.sources:
            path = folder / self._file(source)
            self.media.seal(path, self.ends[source.disk.name])
            read, sha256 = self.media.digest(path, self.gone)
            size_mib = -(-source.bytes // MIB)
            disk = SavedDisk(disk=source.disk.name, file=path.name, size_mib=size_mib, bytes=read, sha256=sha256)
            if source.disk.name in self.variables:
                beside = folder / self.shelf.vars_of(source.disk.name, order.backup)
                media.seal(beside)
                disk = msgspec.structs.replace(disk, vars=beside.name, vars_sha256=media.digest(beside, self.gone)[1])
            saved.append(disk)
        done = msgspec.structs.replace(self.done, disks=tuple(saved), took_ms=_ms(self.begun))
        self.shelf.publish(Manifest(
            vm=order.vm, backup=order.backup, kind=done.kind, parent=done.parent, at_us=done.at_us, definition=order.definition,
            disks=done.disks, done=done, key=done.key,
        ))  # fmt: skip
        return done

    async def forget_older(self) -> None:
        """What was written since older backups of this pool is needed no more, as this one is whole."""
        with suppress(DriverError):
            for source in self.sources:
                for bitmap in source.bitmaps:
                    if of_pool(self.order.pool, bitmap.name) and bitmap.name != self.bitmap:
                        await self._away(source, bitmap.name)

    async def undo(self) -> None:
        """Nothing of it is left; where QEMU is gone, nothing is there."""
        cleared = False
        try:
            with suppress(DriverError):
                await self.jobs.clear(self.blocks)
                cleared = True
                for source in self.sources:
                    await filled.away(self.blocks, source)
                    await self._away(source, self.bitmap)
        finally:
            self.jobs.forget()
            await self.drop(clean=cleared, stray=not cleared and not await self._over())

    async def _over(self) -> bool:
        """Whether its QEMU, which does not answer, has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDS_S_MAX):
                await self.ended.wait()
        return self.ended.is_set()

    async def drop(self, *, clean: bool = True, stray: bool = False) -> None:
        """Of the files nothing is left, unless all of them were there, whole, a moment ago. stray: a QEMU that does not answer may
        write there still."""
        self.gone.set()
        if self.thread is not None:
            await asyncio.wait({self.thread})
        if stray and self.media.bounded:
            await asyncio.to_thread(self.shelf.strand, self.order.backup)
        else:
            await asyncio.to_thread(self.shelf.drop, self.order.backup, clean=clean)

    async def _away(self, source: Source, bitmap: str) -> None:
        with suppress(DriverError):  # it may not be there
            await self.blocks.do("block-dirty-bitmap-remove", {"node": source.node, "name": bitmap})


def _ms(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)


async def settled[T](work: Awaitable[T], undo: Callable[[], Awaitable[None]]) -> T:
    """What comes of it; upon anything else, after `undo`, which is not cut short by another cancellation."""
    try:
        return await work
    except BaseException:
        undoing = asyncio.ensure_future(undo())
        while not undoing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(undoing)
        undoing.result()
        raise
