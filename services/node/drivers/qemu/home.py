"""One recovered disk whose data comes home: how much of it is still beneath, and readers that fetch it ahead of the stream job.

What is beneath is asked of QEMU, by the disk's own tables (nbd_cache.py): so it is known what was copied, whoever did it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from proto.machine import Disk
from services.node.access_map import Stretch
from services.node.drivers import DriverError
from services.node.drivers.qemu import nbd_cache
from services.node.drivers.qemu.nbd_cache import Export
from services.node.drivers.qemu.reads import Reads
from services.node.pacing import MIB

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

WINDOW = 128 * MIB
"""of a disk, whose tables are asked for at once: at most 2048 clusters, which QEMU answers in about a millisecond"""
PIECE = MIB
FIRST_PIECE = 128 * 1024
"""of what comes first: a guest that waits for another one meanwhile waits no longer than for that"""
FLYING_BYTES_MAX, FLYING_MAX = 4 * MIB, 16
"""asked for and not there yet: with 4 pieces of 1 MiB all that the storage gives is reached (measured); more only makes a guest
wait longer. QEMU takes 16 requests of one connection at a time"""
FLUSH_S_MAX = 60.0
"""for a slow storage; then it is asked again"""
SOCKET = "home"


class Home:
    """left: bytes still beneath in each WINDOW of the disk; all_bytes: of what it stands on. Without an export (`open` failed) the
    job's own figures stand for both."""

    def __init__(self, disk: Disk, node: str, beneath: str, reads: Reads) -> None:
        self.disk, self.job, self.reads = disk, f"merge{disk.slot}", reads
        self.alone = True
        """no reader is to fetch beside one that goes on"""
        self.left: list[int] = []
        self.all_bytes = 0
        self._node, self._beneath = node, beneath
        self._export: Export | None = None
        self._offset = 0
        self._flying = (0, 0)
        """pieces, bytes"""
        self._landed = asyncio.Event()
        self._ahead: set[int] = set()
        """windows that readers have been in"""

    @property
    def counted(self) -> bool:
        return self._export is not None

    @property
    def left_bytes(self) -> int:
        return sum(self.left) if self.counted else self.all_bytes - self._offset

    @property
    def done_bytes(self) -> int:
        return max(0, self.all_bytes - self.left_bytes)

    def capped(self, limit: int) -> int:
        """Bytes a second; 0: no limit. As its disk may come home at most, whatever its guest would let it."""
        most = self.disk.home_mibps * MIB
        return min(limit, most) if limit and most else limit or most

    async def open(self, vm: RunningVm) -> None:
        """Raises DriverError, OSError."""
        own, below = _names(self.disk.slot)
        beneath = await _exported(vm, below, self._beneath)
        try:
            # what its guest wrote over meanwhile is done, too: so all is counted where it comes from
            self.all_bytes = sum([await _still(beneath, at, 1) for at in range(0, beneath.size, WINDOW)])
        finally:
            await beneath.close()
            await vm.fitting.away("block-export-del", {"id": below, "mode": "hard"})
        export = await _exported(vm, own, self._node)
        self.left = [await _still(export, at, nbd_cache.BENEATH) for at in range(0, export.size, WINDOW)]
        self._export = export
        await self.reads.open()

    async def close(self) -> None:
        """Let go of the connection."""
        export, self._export = self._export, None
        if export is not None:
            await export.close()

    async def walked(self, offset: int, length: int) -> None:
        """The job has come up to there. Raises NbdError."""
        self._offset = offset
        if (export := self._export) is None:
            self.all_bytes = length
            return
        now = min(offset // WINDOW, len(self.left))
        self.left[:now] = [0] * now
        if now < len(self.left) and self.left[now]:
            self.left[now] = await _still(export, now * WINDOW, nbd_cache.BENEATH)

    async def read_ahead(self) -> None:
        """All that is still beneath, several pieces at once. Raises an ExceptionGroup with NbdErrors."""
        export = self._export
        if export is None:
            return
        async with asyncio.TaskGroup() as group:
            for number in range(self._offset // WINDOW, len(self.left)):
                if not self.left[number]:
                    continue
                self._ahead.add(number)
                at = number * WINDOW
                found = await export.extents(at, min(WINDOW, export.size - at))
                self.left[number] = sum(size for size, depth in found if depth >= nbd_cache.BENEATH)
                for start, size in _pieces(at, found):
                    await self._room(size)
                    group.create_task(self._fetch(export, number, start, size))

    async def read_first(self) -> None:
        """What its guest touched first the last time, in that order. Raises an ExceptionGroup with NbdErrors."""
        export = self._export
        if export is None:
            return
        self.reads.used = True
        async with asyncio.TaskGroup() as group:
            for at, length in self.reads.map.in_order(FIRST_PIECE, export.size):
                for start, size in _pieces(at, await export.extents(at, length)):
                    await self._room(size)
                    group.create_task(self._fetch(export, start // WINDOW, start, size))

    async def touched(self, vm: RunningVm) -> None:
        """The end of a round: what its guest has touched is noted. Raises DriverError."""
        export, there = self._export, list[Stretch]()
        for number in range(self._offset // WINDOW, len(self.left)) if export is not None else ():
            if self.left[number] and number not in self._ahead and export is not None:
                at = number * WINDOW
                for size, depth in await export.extents(at, min(WINDOW, export.size - at)):
                    there += [(at, size)] if depth == nbd_cache.OWN else []
                    at += size
        jobs = [int(job["offset"]) for job in await vm.do("query-block-jobs") if job["device"] == self.job]
        ours = [(0, min(jobs, default=1 << 62) + PIECE), *((number * WINDOW, WINDOW) for number in self._ahead)]
        if self.reads.used:
            ours += (stretch for each in self.reads.map.stretches() for stretch in each)
        await self.reads.note(there, ours)

    async def _room(self, size: int) -> None:
        while self._flying[0] and (
            self.alone or self._flying[0] >= FLYING_MAX or self._flying[1] + size > FLYING_BYTES_MAX
        ):
            self._landed.clear()
            await self._landed.wait()
        self._flying = (self._flying[0] + 1, self._flying[1] + size)

    async def _fetch(self, export: Export, number: int, start: int, size: int) -> None:
        try:
            await export.copy_up(start, size)
            self.left[number] = max(0, self.left[number] - size)
        finally:
            self._flying = (self._flying[0] - 1, self._flying[1] - size)
            self._landed.set()


def _pieces(at: int, found: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, bytes) of what lies beneath, from `at` on; none longer than PIECE."""
    for size, depth in found:
        if depth >= nbd_cache.BENEATH:
            yield from ((start, min(PIECE, at + size - start)) for start in range(at, at + size, PIECE))
        at += size


async def _still(export: Export, at: int, depth: int) -> int:
    """Bytes of that window that lie at least so deep."""
    return sum(size for size, found in await export.extents(at, min(WINDOW, export.size - at)) if found >= depth)


async def _exported(vm: RunningVm, name: str, node: str) -> Export:
    """Raises DriverError, OSError."""
    if name not in {str(one["id"]) for one in await vm.do("query-block-exports")}:
        await _serve(vm)
        words = {"type": "nbd", "id": name, "node-name": node, "name": name, "writable": False, "allocation-depth": True}
        await vm.do("block-export-add", words)
    return await nbd_cache.opened(vm.folder.dial(SOCKET), name)


async def _serve(vm: RunningVm) -> None:
    """QEMU listens on a socket that only the agent's user can reach; one that an earlier agent made will do."""
    try:
        vm.folder.dial(SOCKET).close()
    except OSError:
        (vm.folder.path / SOCKET).unlink(missing_ok=True)
        try:
            with vm.folder.listen(SOCKET) as sock:
                await vm.give(SOCKET, sock.fileno())
            await vm.do("nbd-server-start", {"addr": {"type": "fd", "data": {"str": SOCKET}}})
        except BaseException:  # the file says that a server is there, and it is ours
            (vm.folder.path / SOCKET).unlink(missing_ok=True)
            raise


def _flush_of(slot: int) -> str:
    return f"home{slot}-flush"


def _names(slot: int) -> tuple[str, str]:
    """Of the exports of a disk, and of what it stands on."""
    return f"home{slot}", f"home{slot}-beneath"


async def flushed(vm: RunningVm, slot: int, node: str) -> None:
    """All that was written to that node, one of the disk's, is durable, its tables too. QEMU's monitor has no word for it. Raises
    DriverError, OSError."""
    id = _flush_of(slot)
    await vm.fitting.away("block-export-del", {"id": id, "mode": "hard"})  # an earlier agent's, perhaps of another node
    try:
        async with asyncio.timeout(FLUSH_S_MAX):
            export = await _exported(vm, id, node)
            try:
                await export.flush()
            finally:
                await export.close()
    except TimeoutError as error:
        raise DriverError(f"{vm.record.vm}: {node} was not written out within {FLUSH_S_MAX:g} s") from error
    finally:
        await vm.fitting.away("block-export-del", {"id": id, "mode": "hard"})


def served(vm: RunningVm) -> bool:
    """Whether QEMU listens for readers, as far as this host's files say."""
    return (vm.folder.path / SOCKET).exists()


async def cleared(vm: RunningVm, slot: int) -> None:
    """No export holds a node of that disk any more. Raises DriverError."""
    for name in (*_names(slot), _flush_of(slot)):
        await vm.fitting.away("block-export-del", {"id": name, "mode": "hard"})


async def unserved(vm: RunningVm) -> None:
    """No disk of it comes home any more. Raises DriverError."""
    await vm.fitting.away("nbd-server-stop", {})
    (vm.folder.path / SOCKET).unlink(missing_ok=True)
