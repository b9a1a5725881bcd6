"""A live log, read by a role that cannot write (asv_reader), over connections that refuse to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

import asyncpg

from libs.common.log import Eventless, Head, LogError
from libs.common.log.link import WAIT_S_MAX, Access, Connection, patiently
from libs.common.log.postgres import EVENTLESS, READ_ALL, READ_STREAM
from libs.common.log.replay import replay
from libs.common.messages import Recorded
from libs.past.source import Decided

READERS_MAX = 2
COMMANDS_RANGE = 20_000
"""positions whose commands are asked for at once"""

COMMANDS = """
select position, at_us, id, stream, payload, outcome from asv.commands
where at_us >= $3 and at_us <= $4 and position > $1 and position <= $2 order by position
"""
UNWRITTEN_MAX = 10_000
"""commands that wrote nothing, read at once"""
UNWRITTEN = """
select position, at_us, id, stream, payload, outcome from asv.commands
where position = 0 and (at_us, id) > ($1, $2) order by at_us, id limit $3
"""
TIMES = "select at_us from asv.events where position = any($1::bigint[]) order by position"


class PostgresPast:
    """See Past. Made by `open`."""

    def __init__(self, access: Access, readers: asyncpg.Pool[asyncpg.Record]) -> None:
        self._access = access
        self._readers = readers

    @classmethod
    async def open(cls, dsn: str, *, wait_s_max: float = WAIT_S_MAX) -> Self:
        """Raises Unavailable, LogError (no log is there, or this role is not let in)."""
        access = Access(dsn, wait_s_max=wait_s_max, settings={"default_transaction_read_only": "on"})
        first = await patiently("open", wait_s_max, access.connect)
        await first.close()
        settings = {"jit": "off", **access.settings}
        readers = asyncpg.create_pool(dsn, min_size=0, max_size=READERS_MAX, timeout=wait_s_max, server_settings=settings)
        await readers
        return cls(access, readers)

    async def head(self) -> Head:
        rows = await self._read("head", "select position, incarnation, at_us from asv.log_head")
        return Head(*rows[0])

    def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        return replay(self._access, after, until)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        return [Recorded(*row) for row in await self._read("read_stream", READ_STREAM, stream, after, limit)]

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        """Events with position > after, in order, at most `limit`."""
        return [Recorded(*row) for row in await self._read("read_all", READ_ALL, after, limit)]

    async def commands(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Decided]]:
        head = (await self.head()).position
        end = head if until is None else min(until, head)
        for start in range(max(after, 0), end, COMMANDS_RANGE):
            last = min(start + COMMANDS_RANGE, end)
            times = await self._read("commands", TIMES, [start + 1, last])
            if not times:
                raise LogError(f"the log has no events {start + 1} and {last}")
            rows = await self._read("commands", COMMANDS, start, last, times[0][0], times[-1][0])
            yield [Decided(*row) for row in rows]

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        return [Eventless(*row) for row in await self._read("eventless", EVENTLESS, stream, limit)]

    async def unwritten(self, after_us: int = 0) -> AsyncIterator[Sequence[Decided]]:
        at = (after_us + 1, "")
        while rows := await self._read("unwritten", UNWRITTEN, *at, UNWRITTEN_MAX):
            yield (found := [Decided(*row) for row in rows])
            at = (found[-1].at_us, found[-1].id)

    async def position_at(self, at_us: int) -> int:
        low, high = 0, (await self.head()).position
        while low < high:
            middle = (low + high + 1) // 2
            rows = await self._read("position_at", TIMES, [middle])
            if not rows:
                raise LogError(f"the log has no event {middle}")
            low, high = (middle, high) if rows[0][0] <= at_us else (low, middle - 1)
        return low

    async def close(self) -> None:
        self._readers.terminate()

    async def _read(self, what: str, query: str, *values: Any) -> list[asyncpg.Record]:
        async def attempt() -> list[asyncpg.Record]:
            connection: Connection
            async with self._readers.acquire() as connection:  # type: ignore[assignment]
                return await connection.fetch(query, *values)

        return await patiently(what, self._access.wait_s_max, attempt)
