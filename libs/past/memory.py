"""The log in memory, read as a past one: for tests, and for what the deterministic world has written."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence

from libs.common.log import Eventless, Head
from libs.common.log.memory import MemoryLog
from libs.common.messages import Recorded
from libs.past.source import Decided


class MemoryPast:
    """See Past."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def head(self) -> Head:
        return await self._log.head()

    def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        return self._log.replay(after, until)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        return await self._log.read_stream(stream, after, limit)

    async def commands(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Decided]]:
        head = self._log.head_now().position
        end = head if until is None else min(until, head)
        found = [
            Decided(kept.answer.position, kept.at_us, id, kept.stream, kept.payload, kept.answer.outcome)
            for id, kept in self._log.commands_now().items()
            if max(after, 0) < kept.answer.position <= end
        ]
        yield sorted(found, key=lambda one: one.position)

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        return await self._log.eventless(stream, limit)

    async def unwritten(self, after_us: int = 0) -> AsyncIterator[Sequence[Decided]]:
        found = [
            Decided(0, kept.at_us, id, kept.stream, kept.payload, kept.answer.outcome)
            for id, kept in self._log.commands_now().items()
            if not kept.answer.position and kept.at_us > after_us
        ]
        yield sorted(found, key=lambda one: (one.at_us, one.id))

    async def position_at(self, at_us: int) -> int:
        events = self._log.read_all_now(0, self._log.head_now().position)
        return bisect_right(events, at_us, key=lambda recorded: recorded.at_us)

    async def close(self) -> None:
        return None
