"""Carries evidence to the steppers that judge it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Protocol

import msgspec

from libs.common.messages import Recorded
from libs.verify import FEW, RANGE, Batch, Ends, Evidence, Fault, Orders, Start
from libs.verify.chain import NO_ORDERS, Chain
from libs.verify.streams import Streams, of_ends

FAULTS_MAX = 1000
"""faults that are told; a log that is wholly another one need not be told of event by event"""


class Report(msgspec.Struct, kw_only=True):
    """What was looked at, and all that does not hold. after, until: positions; hash: the chain's value at `until`."""

    after: int
    until: int
    events: int
    batches: int
    streams: int
    incarnation: int
    hash: str
    seconds: float = 0.0
    faults: list[Fault] = []
    notes: list[str] = []

    @property
    def holds(self) -> bool:
        return not self.faults


class Ahead[T]:
    """Chunks, given piece by piece, with a look at the next one."""

    def __init__(self, chunks: AsyncGenerator[Sequence[T]]) -> None:
        self.chunks = chunks
        self._have: Sequence[T] = ()
        self._at = 0

    async def peek(self) -> T | None:
        """The next one; None behind the end."""
        while self._at == len(self._have):
            chunk = await anext(self.chunks, None)
            if chunk is None:
                return None
            self._have, self._at = chunk, 0
        return self._have[self._at]

    def pop(self) -> None:
        self._at += 1


class Reader(Protocol):
    """What looks at the events themselves, in order."""

    faults: list[Fault]

    def take(self, records: Sequence[Recorded]) -> None: ...

    def finish(self) -> None:
        """All events were told, up to the head."""
        ...


async def verify(
    evidence: Evidence, after: int = 0, until: int | None = None, readers: Sequence[Reader] = (), start: Start | None = None
) -> Report:
    """From the batch behind position `after` (or from `start`) up to the one that holds `until` (None: the head). readers: who else
    is told of all events. Raises LogError."""
    begun = time.perf_counter()
    ends = await evidence.ends()
    start = start or await evidence.start(after)
    whole = until is None or until >= ends.position
    chain, streams = Chain(start), Streams(start.batch == 0 and start.position == 0)
    walk = _Walk(evidence, ends, chain, streams, RANGE if whole else FEW, readers)
    try:
        await walk.go(ends.position if until is None else min(until, ends.position), whole)
    finally:
        await walk.close()
    count = len(streams.versions)
    if whole or chain.doubtful:
        chain.finish(ends.hash)
    ended: Iterable[Fault] = ()
    if whole:
        async for heads in evidence.heads():
            streams.compare(heads)
        streams.rest()
        for reader in readers:
            reader.finish()
        ended = of_ends(ends, start, chain.number, chain.end, chain.at_us)
    told = [fault for reader in readers for fault in reader.faults]
    faults = list(dict.fromkeys([*chain.faults, *streams.faults, *ended, *told]))[:FAULTS_MAX]
    return Report(
        after=start.position - len(start.pending), until=chain.end, events=chain.end - start.position,
        batches=chain.number - start.batch, streams=count, incarnation=ends.incarnation,
        hash=(chain.hash or b"").hex(), seconds=round(time.perf_counter() - begun, 3), faults=faults,
    )  # fmt: skip


class _Walk:
    """Events, batches and commands side by side, each asked for as it is needed."""

    def __init__(
        self, evidence: Evidence, ends: Ends, chain: Chain, streams: Streams, step: int, readers: Sequence[Reader]
    ) -> None:
        self._ends = ends
        self._chain = chain
        self._streams = streams
        self._readers = readers
        self._full = bool(readers)
        self._events = evidence.events(chain.position, ends.position, step, self._full)
        self._batches = Ahead[Batch](evidence.batches(chain.number, ends.batches, step))
        self._orders = Ahead[Orders](evidence.orders(chain.number, ends.batches, step))

    async def close(self) -> None:
        for chunks in (self._events, self._batches.chunks, self._orders.chunks):
            await chunks.aclose()

    async def go(self, until: int, whole: bool) -> None:
        chain = self._chain
        while (batch := await self._batches.peek()) is not None and (whole or chain.end < until or chain.doubtful):
            self._batches.pop()
            following = await self._batches.peek()
            next_first = following.first if following else self._ends.position + 1
            for end in (batch.last, next_first - 1):
                if chain.position < end <= self._ends.position:
                    await self._take(end)
            chain.close(batch, await self._of(batch.number), next_first)

    async def _take(self, end: int) -> None:
        """Events up to `end` at least, where there are any."""
        while self._chain.position < end and (chunk := await anext(self._events, None)) is not None:
            first, rows = chunk
            self._chain.take(first, rows, self._full)
            self._streams.take(first, rows)
            if self._full:
                records = [
                    Recorded(position, stream, version, type, v, at_us, data, meta)
                    for position, (_, _, stream, version, at_us, type, v, data, meta) in enumerate(rows, first)
                ]
                for reader in self._readers:
                    reader.take(records)

    async def _of(self, number: int) -> Orders:
        while (orders := await self._orders.peek()) is not None and orders.batch <= number:
            self._orders.pop()
            if orders.batch == number:
                return orders
        return NO_ORDERS
