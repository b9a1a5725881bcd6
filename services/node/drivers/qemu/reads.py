"""What the guest of a recovered disk touches, as QEMU's tables tell it, and the file in which that is kept (access_map.py).

    <pool>/backups/<vm>/.reads-<disk>.json    beside the VM's backups, for all of them; nobody's digest, and no backup needs it

A disk's own file begins empty; what is in it later was copied by the stream job, by readers, or because its guest read or wrote
it. The first two are known. So nothing is asked of the guest, and nothing is in its way but the look at the tables.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from proto.machine import Disk
from services.node.access_map import ROUNDS_S, AccessMap, Stretch, joined, learnt, minus
from services.node.drivers.qemu.backups.layout import reads_of
from services.node.drivers.qemu.qemu_img import sync

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 1 << 20


class Reads:
    """Of one disk, since its copy began. map: what is known of it; `open` reads it. used: it is fetched by the map."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self.map = AccessMap()
        self.used = False
        self._disk, self._path = disk, path
        self._began = time.monotonic()
        self._older = AccessMap()
        self._rounds: list[list[Stretch]] = []
        self._known: list[Stretch] = []
        self._records = True

    @property
    def records(self) -> bool:
        """Rounds are still to come. A disk that a process before this one ran on has in it what nobody can tell apart any more."""
        return self._records and len(self._rounds) < len(ROUNDS_S)

    @property
    def due_s(self) -> float:
        """Seconds until the end of the round."""
        return max(0.0, self._began + ROUNDS_S[len(self._rounds)] - time.monotonic())

    def stop(self) -> None:
        """No more is noted."""
        self._records = False

    async def open(self) -> None:
        self.map = self._older = await asyncio.to_thread(read, self._path)
        self._records = self._older.of != self._disk.file

    async def note(self, there: Iterable[Stretch], ours: Iterable[Stretch]) -> None:
        """The end of a round: what is in the disk's own file, and what of it was copied for us."""
        fresh = minus(there, (*self._known, *ours))
        self._known = joined((*self._known, *fresh))
        self._rounds.append(fresh)
        if not fresh:
            return
        self.map = learnt(self._older, self._disk.file, self._rounds, alone=not self.used)
        try:
            await asyncio.to_thread(write, self._path, self.map)
        except OSError as error:
            self.stop()
            log.info("what the guest of %s reads is not kept: %s", self._disk.file, error)


def place(pool: Path, vm: str, disk: str) -> Path:
    """pool: of the backups of that VM."""
    return pool / "backups" / vm / reads_of(disk)


def read(path: Path) -> AccessMap:
    """Empty where there is none, or none that can be read. Blocking."""
    with suppress(OSError, msgspec.MsgspecError), path.open("rb") as file:
        return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=AccessMap)
    return AccessMap()


def write(path: Path, map: AccessMap) -> None:
    """In the place of what is there. Blocking. Raises OSError."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(msgspec.json.encode(map))
    draft.chmod(0o600)
    sync(draft)
    draft.replace(path)
