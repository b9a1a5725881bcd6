"""Backups in an NBD export: each file of one is a qcow2 in a window of it, which claims.py gives. Blocking.

    make: claimed for all that the disk could hold, or what there is; an empty qcow2 written to its beginning
    QEMU: nbd ◀── raw (offset, size) ◀── qcow2, by a connection of its own
    seal: flushed, and the claim cut to what was written
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from libs.common.clock import SystemClock
from services.node.drivers import CannotStart, DriverError
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.backups import claims
from services.node.drivers.qemu.backups.claims import UNIT, Claim
from services.node.drivers.qemu.backups.media import SEALED, Abandoned, Files, Media
from services.node.drivers.qemu.devices import Words
from services.node.drivers.qemu.qemu_img import sync
from services.node.drivers.qemu.stores import settings
from services.node.drivers.qemu.stores.nbd_line import Line
from services.node.drivers.qemu.stores.settings import Nbd, Remote, Window

if TYPE_CHECKING:
    from services.node.drivers.qemu.backups.jobs import Blocks

CLUSTER = 64 << 10
ENTRY_BYTES, REFCOUNT_BYTES, SPARE_BYTES = 8, 2, 8 << 20
"""what qcow2 takes for each cluster in its tables, and for all else"""
LABEL_BYTES = 4096
FULL = "No space left on device"


class Label(msgspec.Struct, frozen=True):
    """At the beginning of the export: whose it is. pool: the id of the pool's folder, which has its claims."""

    asv_backups: int
    pool: str


class Windows:
    bounded = True

    def __init__(self, name: str, folder: Path, at: Nbd) -> None:
        self._name = name
        self._folder = folder
        self._at = at
        self._clock = SystemClock()

    @property
    def place(self) -> str:
        return f"the export {self._at.backups} of the NBD server at {self._at.server}"

    @contextmanager
    def _line(self) -> Iterator[Line]:
        """Raises OSError with a sentence."""
        try:
            with Line(self._at, self._at.backups) as line:
                yield line
        except (OSError, struct.error) as error:
            raise OSError(error.errno if isinstance(error, OSError) else None, f"{self.place}: {error}") from error

    # --- what is there --------------------------------------------------------------------------------------------------

    def size(self, path: Path) -> int:
        return claims.read(path).size

    def head(self, path: Path, count: int) -> bytes:
        claim = claims.read(path)
        with self._line() as line:
            return line.read(claim.offset, min(count, claim.size))

    def digest(self, path: Path, gone: threading.Event) -> tuple[int, str]:
        claim, found = claims.read(path), hashlib.sha256()
        with self._line() as line:
            if claim.end > line.size:
                raise OSError(f"{self.place} has {line.size} bytes, and {path.name} lies beyond")
            for part in line.parts(claim.offset, claim.size):
                if gone.is_set():
                    raise Abandoned
                found.update(part)
        return claim.size, found.hexdigest()

    def window(self, path: Path) -> Window:
        return claims.read(path).window(self._at)

    async def node(self, blocks: Blocks, name: str, path: Path, *, writes: bool) -> Words:
        return settings.window_node(name, self.window(path), writes=writes)

    def room(self) -> tuple[int, int]:
        with claims.locked(self._folder), self._line() as line:
            taken = sum(claim.size for claim in claims.taken(self._folder, self._clock.now_us()))
            return line.size - UNIT - taken, line.size

    def full(self, paths: Sequence[Path]) -> str:
        (free, size), mine = self.room(), sum(claims.read(path).size for path in paths)
        said = f"{mine // UNIT} MiB of {self.place} were claimed for the backup"
        return f"{said}, {free // UNIT} MiB of {size // UNIT} MiB are free, as far as its server has room for them"

    def check(self) -> None:
        with self._line() as line:
            line.read(0, LABEL_BYTES)

    # --- what is made ---------------------------------------------------------------------------------------------------

    def make(self, path: Path, size_bytes: int, draw: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="asv-window-") as aside, self._line() as line:
            draft = Path(aside) / path.name
            draw(draft)
            begin = draft.read_bytes()
            claim = self._claimed(line, path, worst(size_bytes), len(begin))
            line.write(claim.offset, begin)

    def _claimed(self, line: Line, path: Path, wanted: int, begun: int) -> Claim:
        if not line.writable:
            raise CannotStart(f"{self.place} is read-only: export it for writing")
        with claims.locked(self._folder):
            self._labelled(line)
            claim = claims.fitting(line.size, claims.taken(self._folder, self._clock.now_us()), wanted)
            if claim is None or claim.size < begun:
                raise CannotStart(f"{self.place}: {FULL}")
            claims.write(path, msgspec.structs.replace(claim, begun=begun), 0o600)
        return claim

    def _labelled(self, line: Line) -> None:
        """The export is this pool's, and no other's. Raises CannotStart."""
        begin, id = line.read(0, LABEL_BYTES), disks.id_of(self._folder)
        if not any(begin):
            if line.size < UNIT + claims.LEAST:
                raise CannotStart(f"{self.place} has {line.size // UNIT} MiB: make it larger")
            line.write(0, msgspec.json.encode(Label(1, id)).ljust(LABEL_BYTES, b"\0"))
            line.flush()
            return
        try:
            label = msgspec.json.decode(begin.rstrip(b"\0"), type=Label)
        except msgspec.MsgspecError:
            said = f"{self.place} holds something that is no backup"
            raise CannotStart(f"{said}: give an export of zeros, or write zeros to its first MiB if that is of no use") from None
        if (label.asv_backups, label.pool) != (1, id):
            raise CannotStart(f"{self.place} has backups of the pool {label.pool}, and {self._name} is {id}: each needs its own")

    def seal(self, path: Path, end: int) -> None:
        """What lies behind is free again."""
        claim = claims.read(path)
        with self._line() as line:
            line.flush()
        size = min(claim.size, -(-max(end, claim.begun) // CLUSTER) * CLUSTER)
        with claims.locked(self._folder):
            claims.write(path, Claim(claim.offset, size), SEALED)

    # --- what goes ------------------------------------------------------------------------------------------------------

    def replace(self, new: Path, path: Path) -> None:
        """Nobody stands on what is written anew: a recovery holds all that it stands on."""
        with claims.locked(self._folder):
            former = claims.read(path)
            new.rename(path)
            sync(path.parent)
            self._trimmed(former)  # before another can have it

    def changing(self) -> AbstractContextManager[None]:
        return claims.locked(self._folder)

    def empty(self, path: Path, *, clean: bool) -> None:
        """It stays claimed until its file is gone."""
        if not path.name.endswith(claims.PARTS):
            return
        with suppress(DriverError):  # of no window: one that is damaged can be removed too
            claim = claims.read(path)
            self._trimmed(claim)
            if not clean:
                with claims.locked(self._folder):
                    claims.cool(self._folder, claim, self._clock.now_us())

    def _trimmed(self, claim: Claim) -> None:
        """A server that has it sparse gets its room back; it is no harm where it does not."""
        with suppress(OSError), self._line() as line:
            line.trim(claim.offset, claim.size)


def media_of(name: str, pool: Path, remotes: Mapping[str, Remote], *, direct: bool = False) -> Media:
    """Of a pool that takes backups."""
    at = remotes.get(name)
    return Windows(name, pool, at) if isinstance(at, Nbd) else Files(pool, direct)


def worst(size_bytes: int) -> int:
    """What a qcow2 takes of which every cluster is written."""
    clusters = -(-size_bytes // CLUSTER)
    tables = clusters * (ENTRY_BYTES + REFCOUNT_BYTES)
    return size_bytes + tables + tables // 1024 + SPARE_BYTES
