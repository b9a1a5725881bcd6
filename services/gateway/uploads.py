"""Image files on their way into a pool: streamed to `<pool>/incoming/<random>.part`, bounded, and never left behind.

The agent takes the file from there (ImportImage) or the import is refused; either way the gateway removes its part.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from io import FileIO
from pathlib import Path

from services.gateway.problems import Problem

_log = logging.getLogger(__name__)

BUFFER_BYTES = 1024 * 1024
BYTES_MAX = 64 * 1024**3
SEED = ".seed"
SEED_US_MIN = 600_000_000
UPLOADS_MAX = 8
"""uploads at the same time"""


class Uploads:
    """pools: folder of each pool by name."""

    def __init__(self, pools: Mapping[str, Path], *, bytes_max: int = BYTES_MAX) -> None:
        self.pools = dict(pools)
        self.bytes_max = bytes_max
        self._running = 0
        self._removing: set[asyncio.Future[None]] = set()

    def folder(self, pool: str) -> Path:
        """Raises Problem 400 for a pool that this gateway does not reach."""
        if pool not in self.pools:
            known = ", ".join(sorted(self.pools)) or "none: ASV_POOLS is not set"
            raise Problem(400, "NO_POOL", f"this gateway reaches no pool `{pool}`", f"its pools: {known}", field="pool")
        return self.pools[pool] / "incoming"

    async def take(self, pool: str, length: int | None, chunks: AsyncIterator[bytes]) -> str:
        """Store a body and give the file's name. length: as announced, if it was. Raises Problem; then nothing is left."""
        folder = self.folder(pool)
        if length is not None and length > self.bytes_max:
            raise self._too_large(length)
        if self._running >= UPLOADS_MAX:
            raise Problem(503, "UPLOADS_FULL", f"{UPLOADS_MAX} uploads are under way", "wait for one to end")
        self._running += 1
        name = f"{secrets.token_hex(16)}.part"
        try:
            size = await self._write(folder / name, chunks)
            if size == 0:
                raise Problem(400, "EMPTY_BODY", "the body is empty", "send the image file as the body")
            if length is not None and size != length:
                raise Problem(400, "TRUNCATED", f"{size} of {length} bytes came", "send the whole file")
        except BaseException as error:
            self.drop(pool, name)
            if isinstance(error, OSError):
                raise _cannot_store(error) from error
            raise
        finally:
            self._running -= 1
        return name

    async def _write(self, path: Path, chunks: AsyncIterator[bytes]) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        size, held, held_bytes = 0, list[bytes](), 0
        with _created(path) as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self.bytes_max:
                    raise self._too_large(size)
                held.append(chunk)
                held_bytes += len(chunk)
                if held_bytes >= BUFFER_BYTES:
                    await asyncio.to_thread(_write_all, file.fileno(), b"".join(held))
                    held, held_bytes = [], 0
            await asyncio.to_thread(_write_all, file.fileno(), b"".join(held))
        return size

    def keep_seed(self, pool: str, data: bytes) -> str:
        """What a guest is to begin with. Gives its name; it stays until its VM is removed. Raises Problem."""
        folder = self.folder(pool)
        name = f"{secrets.token_hex(16)}{SEED}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _created(folder / name) as file:
                _write_all(file.fileno(), data)
        except OSError as error:
            self.drop(pool, name)
            raise _cannot_store(error) from error
        return name

    def drop(self, pool: str, name: str) -> None:
        """Remove a part; fine when it is gone already."""
        try:
            (self.folder(pool) / name).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the uploaded part %s of pool %s cannot be removed: %s", name, pool, error)

    def drop_later(self, pool: str, name: str) -> None:
        """`drop` beside the event loop: removing a large file takes its time."""
        removing = asyncio.get_running_loop().run_in_executor(None, self.drop, pool, name)
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)

    async def settle(self) -> None:
        """Returns when nothing is being removed any more."""
        while removing := list(self._removing):
            await asyncio.gather(*removing)  # what is done already is awaited without a turn of the loop: it has to be let go here
            self._removing.difference_update(removing)

    def sweep(self, wanted: set[str], now_us: int = 0) -> None:
        """Remove the parts that no import waits for, and the seeds of no VM: what a killed gateway left behind."""
        for pool in self.pools:
            for path in (*self.folder(pool).glob("*.part"), *self.folder(pool).glob(f"*{SEED}")):
                if path.name not in wanted and not _just_made(path, now_us):
                    self.drop(pool, path.name)

    def _too_large(self, size: int) -> Problem:
        text = f"the file has {size} bytes or more; {self.bytes_max} are allowed"
        return Problem(413, "TOO_LARGE", text, "send a smaller file, or qcow2 instead of raw")


def _just_made(path: Path, now_us: int) -> bool:
    """A seed that another gateway is about to name in a command."""
    try:
        return path.suffix == SEED and now_us - path.stat().st_mtime_ns // 1000 < SEED_US_MIN
    except OSError:
        return True


def _created(path: Path) -> FileIO:
    """A new file that only its owner and group may read: an image may hold secrets."""
    return FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "w")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _cannot_store(error: OSError) -> Problem:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(507, "POOL_FULL", "the pool's disk is full", "make room in the pool, then send it again")
    return Problem(500, "POOL_UNUSABLE", f"the pool cannot be written: {error.strerror}", "check the pool's folder")
