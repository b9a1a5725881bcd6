"""Whether a log still is what was written: the proof behind `asvctl log verify`.

    found = await verify(evidence, Wanted(...))      libs/verify/verify.py: Report, with a Fault for all that does not hold

Evidence is what a log has to show for itself (rows with their digests, batches, commands, ends): Postgres read by asv_reader, an
archive, or one behind the other. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

RANGE, FEW = 1536, 64
"""numbers asked for at a time: of a whole log (as in libs/common/log/replay.py), and of a part of it"""


class Fault(msgspec.Struct, frozen=True, order=True):
    """What does not hold. where: `position 17`, `batch 3`, `command ID`, `stream vm-a`, …; what: a sentence, with both values."""

    where: str
    what: str


class Batch(NamedTuple):
    """A link of the chain: number (gap-free from 1), the positions it wrote (first = last + 1: none), the writer's time, how many
    commands (None: of a release that did not chain them), and the chain's value behind it."""

    number: int
    first: int
    last: int
    at_us: int
    commands: int | None
    hash: bytes


class Proof(NamedTuple):
    """An event as it is verified. words: what its digest is of before data and meta (libs/common/log/digest.py), with these behind
    it where they do not stand beside it. Read by number where it is read by the million."""

    words: bytes
    hash: bytes
    stream: str
    version: int
    at_us: int
    type: str = ""
    v: int = 0
    data: bytes = b""
    meta: bytes = b""


class Orders(NamedTuple):
    """The commands of one batch: how many, their digests by position and id, the ids of those whose digest is not that of their
    row; earliest and latest: their times; times: by id, where these two differ; id: of one of them."""

    batch: int
    many: int
    hashes: bytes
    wrong: Sequence[str]
    earliest: int
    latest: int
    times: Sequence[tuple[str, int]]
    id: str


class Start(NamedTuple):
    """Where a verification begins: the last batch and position that go before, the chain's value there and the time; digests of
    events behind that batch up to `position`, where they are archived and the batch is not; the streams' versions, where known."""

    batch: int
    position: int
    hash: bytes
    at_us: int
    pending: tuple[bytes, ...] = ()
    times: tuple[int, ...] = ()


class Answered(NamedTuple):
    """A recorded command: when it was decided, the position of its first event (0: it wrote none), its Envelope and Reply."""

    at_us: int
    id: str
    stream: str
    position: int
    payload: bytes
    outcome: bytes


class Consumer(NamedTuple):
    name: str
    position: int
    incarnation: int


class Kept(NamedTuple):
    """A stored snapshot, without its bytes."""

    name: str
    position: int
    schema: str


class Ends(NamedTuple):
    """All that says how far the log goes, at one moment. loose: the first few events and batches beyond the head."""

    position: int
    at_us: int
    incarnation: int
    batches: int
    hash: bytes
    consumers: tuple[Consumer, ...]
    snapshots: tuple[Kept, ...]
    loose: tuple[str, ...]


class Evidence(Protocol):
    """All methods raise LogError (Unavailable where the server is away). Chunks are in order, and bounded: `step` numbers at a
    time."""

    async def ends(self) -> Ends: ...

    async def start(self, after: int) -> Start:
        """Before the last batch that ends at or before this position, so that it is looked at itself; the very beginning of what
        there is for 0."""
        ...

    def batches(self, after: int, until: int, step: int) -> AsyncGenerator[Sequence[Batch]]:
        """By number."""
        ...

    def events(self, after: int, until: int, step: int, full: bool) -> AsyncGenerator[tuple[int, Sequence[Proof]]]:
        """By position: the first one's, and the rows without a gap. A gap ends a chunk early, and the next begins behind it.
        full: with the fields from `type` on, for who reads what the events say."""
        ...

    def orders(self, after: int, until: int, step: int) -> AsyncGenerator[Sequence[Orders]]:
        """Commands by batch; a batch without any is not told of."""
        ...

    def heads(self) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """Each stream's stored version, as it was when `ends` was asked."""
        ...
