"""All archives of a log, in order and without gaps from position 1: what the database says of each, and its file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from libs.common.log import LogError
from libs.common.log.archive import Link, Ordered
from libs.common.log.archive.file import FRAME_DIGEST_BYTES, Archive, Registered
from libs.common.messages import Recorded

READING, ARCHIVING = 0x615356_72656164, 0x615356_61726368  # "aSVread", "aSVarch"
"""advisory locks: shared by who verifies, while which no partition is taken away; and of the one who archives"""
OPEN_MAX = 8
"""directories in memory: a few MB each, where they name many streams"""


class Shelved(NamedTuple):
    """A row of asv.archives (infra/sql/022_archives.sql)."""

    first: int
    last: int
    first_batch: int
    last_batch: int
    ended: int
    at_us: int
    until_us: int
    made_us: int
    size: int
    dropped: bool
    log: bytes
    hash: bytes
    pending: bytes
    digest: bytes
    name: str
    folder: str

    @property
    def registered(self) -> Registered:
        return Registered(self.digest, self.size, self.first, self.last)

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Of the events behind `ended`."""
        return tuple(self.pending[at : at + FRAME_DIGEST_BYTES] for at in range(0, len(self.pending), FRAME_DIGEST_BYTES))


SHELVED = f"select {', '.join(Shelved._fields)} from asv.archives order by first"  # noqa: S608 our own words


class Shelf:
    """folder: where the files are, or else where each was written. All that reads raises BadArchive."""

    def __init__(self, rows: Sequence[Shelved], folder: Path | None = None) -> None:
        """Raises LogError where the rows leave a gap."""
        self.rows = tuple(rows)
        self._folder = folder
        self._open: OrderedDict[int, Archive] = OrderedDict()
        end = 0
        for row in rows:
            if row.first != end + 1:
                raise LogError(f"no archive is recorded of positions {end + 1} to {row.first - 1} (asv.archives): restore its row")
            end = row.last

    @property
    def last(self) -> int:
        """The last archived position; 0: none is."""
        return self.rows[-1].last if self.rows else 0

    @property
    def ended(self) -> int:
        """Where the last archived batch ends."""
        return self.rows[-1].ended if self.rows else 0

    @property
    def last_batch(self) -> int:
        return self.rows[-1].last_batch if self.rows else 0

    @property
    def at_us(self) -> int:
        """The time of the last archived batch; -1: none is."""
        return self.rows[-1].at_us if self.rows else -1

    def path(self, row: Shelved) -> Path:
        written = Path(row.folder) / row.name
        moved = written if self._folder is None else self._folder / row.name
        return moved if moved.exists() or not written.exists() else written

    def archive(self, row: Shelved) -> Archive:
        found = self._open.pop(row.first, None) or Archive.open(self.path(row), row.registered)
        self._open[row.first] = found
        while len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)
        return found

    def events(self, after: int, until: int) -> Iterator[tuple[list[Recorded], bytes]]:
        """Events with after < position <= until in chunks, with their digests."""
        for row in self.rows:
            if row.first <= until and row.last > after:
                yield from self.archive(row).events(after, until)

    def batches(self, after: int, until: int) -> Iterator[list[Link]]:
        for row in self.rows:
            if row.first_batch <= until and row.last_batch > after:
                yield from self.archive(row).batches(after, until)

    def commands(self, after: int, until: int) -> Iterator[list[Ordered]]:
        """Chained ones, by the numbers of their batches: after < batch <= until."""
        for row in self.rows:
            if row.first_batch <= until and row.last_batch > after:
                yield from self.archive(row).commands(max(after, 0), until)

    def commands_of(self, after: int, until: int) -> Iterator[list[Ordered]]:
        """All whose first event is there, after < position <= until, by position."""
        until = min(until, self.ended)
        for number, row in enumerate(self.rows):
            begins = self.rows[number - 1].ended if number else 0
            if begins < until and row.ended > after:
                rows = [r for chunk in self.archive(row).commands(-1, row.last_batch) for r in chunk if after < r.position <= until]
                yield sorted(rows, key=lambda r: r.position)

    def commands_since(self, at_us: int) -> Iterator[list[Ordered]]:
        """All of that time or later, in the order of their times."""
        for row in self.rows:
            if row.at_us >= at_us:
                rows = [r for chunk in self.archive(row).commands_since(at_us) for r in chunk]
                yield sorted(rows, key=lambda r: (r.at_us, r.batch, r.position, r.id))

    def of_stream(self, stream: str, after: int, limit: int) -> list[Recorded]:
        """Events of one stream with version > after, in order."""
        found: list[Recorded] = []
        for row in self.rows:
            if len(found) >= limit:
                break
            found += self.archive(row).of_stream(stream, after, limit - len(found))
        return found

    def answers(self, stream: str) -> Iterator[Ordered]:
        """Commands to one stream that wrote nothing, the newest first."""
        for row in reversed(self.rows):
            yield from self.archive(row).answers(stream)

    def position_at(self, at_us: int) -> int:
        """The last archived position of that time or before; 0: none is."""
        before = [row for row in self.rows if row.until_us <= at_us]
        if len(before) == len(self.rows):
            return self.last
        return self.archive(self.rows[len(before)]).position_at(at_us)
