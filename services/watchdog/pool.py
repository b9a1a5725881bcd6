"""One pool of this node, by threads of its own, as any of its files may hang for minutes: one writes the node's record (path B),
one reads what others wrote. What they find is put before the loop as `Found`; nobody waits for them.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from libs.lease import record as sectors
from libs.lease.effects import Letter
from libs.lease.record import Record, Torn
from services.watchdog import sector
from services.watchdog.clock import now_us

READS_MAX = 8
"""others' records that one node reads in a round: those that follow it in the ring of names, so that each is read by as many"""
ID_AGAIN_S = 0.5
ERRANDS_MAX = 64


class Known(NamedTuple):
    """The pool's word was read. direct: what is read there is read past all caches."""

    word: str
    direct: bool


class Written(NamedTuple):
    """error: "" when it is on the disk."""

    begun_us: int
    took_us: int
    error: str = ""


class Sighted(NamedTuple):
    """A round of reading, or the answer to an errand (number). Each sighting: Sighting's fields, but the pool."""

    sightings: tuple[dict[str, Any], ...]
    letter: Letter | None = None
    errand: int = 0
    error: str = ""


class Learnt(NamedTuple):
    """What lies beside the disks of the VMs that were asked for: those that are as they were, and those that are another's by now.
    Of a VM without a lease record in this pool nothing is said."""

    number: int
    same: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    error: str = ""


type Found = Known | Written | Sighted | Learnt


class Pool:
    """found: called from its threads, with the pool's name."""

    def __init__(self, name: str, folder: str, node: str, found: Callable[[str, Found], None]) -> None:
        self.name = name
        self.folder = folder
        self.node = node
        self.word = ""
        self.direct = False
        self.writing = False
        self.reading = False
        self._found = found
        self._writes: SimpleQueue[Record] = SimpleQueue()
        self._reads: SimpleQueue[Callable[[], Found]] = SimpleQueue()

    def start(self) -> None:
        for work in (self._write_all, self._read_all):
            threading.Thread(target=work, name=f"{self.name}-{work.__name__}", daemon=True).start()

    # --- asked by the loop: none of these waits ------------------------------------------------------------------------

    def write(self, record: Record) -> None:
        """Unless a write is still under way: then the next beat is soon enough."""
        if not self.writing and self.word:
            self.writing = True
            self._writes.put(record)

    def look(self) -> None:
        """A round of reading, unless one is still under way."""
        if not self.reading and self.word:
            self.reading = True
            self._reads.put(self._round)

    def errand(self, number: int, nodes: tuple[str, ...]) -> None:
        self._put(lambda: Sighted(tuple(self._sighting(node) for node in nodes), errand=number))

    def send(self, number: int, letter: Letter) -> None:
        """Put a letter into its node's mailbox. Raises ValueError for one that does not fit, and for a name that is none."""
        path, data = f"{self.folder}/{sectors.file_of(letter.node, 'mailbox')}", sectors.letter_sector(letter)

        def sent() -> Found:
            sector.write(path, data)
            return Sighted((), errand=number)

        self._put(lambda: _tried(sent, lambda said: Sighted((), errand=number, error=said)))

    def learn(self, number: int, vms: tuple[tuple[str, int], ...]) -> None:
        self._put(lambda: _tried(lambda: self._compared(number, vms), lambda said: Learnt(number, error=said)))

    def _put(self, work: Callable[[], Found]) -> None:
        if self._reads.qsize() < ERRANDS_MAX:
            self._reads.put(work)

    # --- in threads ----------------------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        self._know()
        while True:
            record = self._writes.get()
            begun_us, error = now_us(), ""
            try:
                path = f"{self.folder}/{sectors.file_of(self.node, 'record')}"
                sector.write(path, sectors.sector_of(record._replace(sequence=begun_us)))
            except Exception as failed:  # a thread that died would be a path that fell silent
                error = str(failed) or type(failed).__name__
            self.writing = False
            self._found(self.name, Written(begun_us, now_us() - begun_us, error))

    def _know(self) -> None:
        """Until the pool has a word: its agent makes it."""
        said, pause = "", threading.Event()
        while not self.word:
            try:
                word = _text(f"{self.folder}/id").strip()
                self.direct = sector.can_direct(self.folder)
                self.word = word
            except (OSError, ValueError) as error:
                if str(error) != said:
                    said = str(error)
                    self._found(self.name, Written(now_us(), 0, f"it has no word yet: {said}"))
                pause.wait(ID_AGAIN_S)
        self._found(self.name, Known(self.word, self.direct))

    def _read_all(self) -> None:
        while True:
            work = self._reads.get()
            self._found(self.name, work())

    def _round(self) -> Found:
        try:
            return _tried(self._seen, lambda said: Sighted((), error=said))
        finally:
            self.reading = False

    def _seen(self) -> Sighted:
        others = [node for node in sector.names(self.folder, "record") if node != self.node]
        after = [node for node in others if node > self.node]
        ring = (after + others)[: min(READS_MAX, len(others))]
        return Sighted(tuple(self._sighting(node) for node in ring), self._letter())

    def _sighting(self, node: str) -> dict[str, Any]:
        """error: it could not be read, which proves nothing."""
        try:
            path = f"{self.folder}/{sectors.file_of(node, 'record')}"
            data = sector.read(path) if self.direct else None
            if data is None:
                return {"node": node, "error": "its file system cannot be read past caches (no O_DIRECT)"}
            if not data:
                return {"node": node}
            return _fields(node, _whole(path, data))
        except (OSError, ValueError) as error:
            return {"node": node, "error": str(error)}

    def _letter(self) -> Letter | None:
        try:
            data = sector.read(f"{self.folder}/{sectors.file_of(self.node, 'mailbox')}")
            return sectors.read_letter(data) if data else None
        except Torn:
            return None  # it is being written: read again at the next round

    def _compared(self, number: int, vms: tuple[tuple[str, int], ...]) -> Learnt:
        """By the lease records beside the disks: written by compare-and-swap before another node starts anything. Raises OSError,
        ValueError."""
        if not self.direct:
            raise OSError(95, "no O_DIRECT there", self.folder)
        same: list[str] = []
        raised: list[str] = []
        for vm, generation in vms:
            if not (data := sector.read(f"{self.folder}/leases/{vm}.lease")):
                continue
            found = json.loads(data)
            another = found["generation"] == generation and found["node"] != self.node
            (raised if found["generation"] > generation or another else same).append(vm)
        return Learnt(number, tuple(same), tuple(raised))


def _tried(work: Callable[[], Found], failed: Callable[[str], Found]) -> Found:
    try:
        return work()
    except (OSError, ValueError, KeyError, TypeError) as error:
        return failed(str(error) or type(error).__name__)


def _whole(path: str, data: bytes) -> Record:
    """One that was being written is read once more. Raises Torn."""
    try:
        return sectors.read_record(data)
    except Torn:
        return sectors.read_record(sector.read(path))


def _fields(node: str, found: Record) -> dict[str, Any]:
    if found.node != node:
        raise ValueError(f"it is the record of {found.node!r}")
    return {
        "node": node, "boot_id": found.boot_id, "epoch": found.epoch, "sequence": found.sequence, "own": found.own,
        "lease_us": found.lease_us, "acknowledged": found.acknowledged, "done": list(found.done),
    }  # fmt: skip


def _text(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 256).decode("ascii")
    finally:
        os.close(fd)
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text
