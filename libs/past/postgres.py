"""A live log and its archives, read by a role that cannot write (asv_reader), over connections that refuse to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

import asyncpg

from libs.common.log import Eventless, Head, LogError
from libs.common.log.archive.reading import Archives
from libs.common.log.link import WAIT_S_MAX, Access, Connection, patiently
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
where position = 0 and (at_us, id) > ($1, $2) and (batch > $4 or batch is null and at_us > $5) order by at_us, id limit $3
"""
TIME = "select at_us from asv.events where position = $1"


class PostgresPast:
    """See Past. Made by `open`."""

    def __init__(self, access: Access, readers: asyncpg.Pool[asyncpg.Record], archive: Path | None = None) -> None:
        self._access = access
        self._readers = readers
        self._archive = archive
        self._archives = Archives(self._read, archive)

    @classmethod
    async def open(cls, dsn: str, *, wait_s_max: float = WAIT_S_MAX, archive: Path | None = None) -> Self:
        """archive: the folder of archived events, where it is another one than they were written to. Raises Unavailable, LogError
        (no log is there, or this role is not let in)."""
        access = Access(dsn, wait_s_max=wait_s_max, settings={"default_transaction_read_only": "on"})
        first = await patiently("open", wait_s_max, access.connect)
        await first.close()
        settings = {"jit": "off", **access.settings}
        readers = asyncpg.create_pool(dsn, min_size=0, max_size=READERS_MAX, timeout=wait_s_max, server_settings=settings)
        await readers
        return cls(access, readers, archive)

    async def head(self) -> Head:
        rows = await self._read("head", "select position, incarnation, at_us from asv.log_head")
        return Head(*rows[0])

    def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        return replay(self._access, after, until, self._archive)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        return await self._archives.read_stream(stream, after, limit)

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        """Events with position > after, in order, at most `limit`."""
        return await self._archives.read_all(after, limit)

    async def commands(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Decided]]:
        head = (await self.head()).position
        after, end = max(after, 0), head if until is None else min(until, head)
        shelf = await self._archives.shelf(anew=True)
        for ordered in shelf.commands_of(after, end):
            yield [Decided(row.position, row.at_us, row.id, row.stream, row.payload, row.outcome) for row in ordered]
        for start in range(max(after, shelf.ended), end, COMMANDS_RANGE):
            last = min(start + COMMANDS_RANGE, end)
            times = [await self._time(start + 1), await self._time(last)]
            rows = await self._read("commands", COMMANDS, start, last, *times)
            yield [Decided(*row) for row in rows]

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        return await self._archives.eventless(stream, limit)

    async def unwritten(self, after_us: int = 0) -> AsyncIterator[Sequence[Decided]]:
        shelf = await self._archives.shelf(anew=True)
        for ordered in shelf.commands_since(after_us + 1):
            yield [Decided(0, row.at_us, row.id, row.stream, row.payload, row.outcome) for row in ordered if not row.position]
        at, archived = (after_us + 1, ""), (shelf.last_batch, shelf.at_us)
        while rows := await self._read("unwritten", UNWRITTEN, *at, UNWRITTEN_MAX, *archived):
            yield (found := [Decided(*row) for row in rows])
            at = (found[-1].at_us, found[-1].id)

    async def position_at(self, at_us: int) -> int:
        shelf = await self._archives.shelf(anew=True)
        if shelf.rows and at_us < shelf.rows[-1].until_us:
            return shelf.position_at(at_us)
        low, high = shelf.last, (await self.head()).position
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if await self._time(middle) <= at_us else (low, middle - 1)
        return low

    async def _time(self, position: int) -> int:
        """When it was written. Raises LogError where there is no such event."""
        if not (rows := await self._read("times", TIME, position)):
            found = await self._archives.read_all(position - 1, 1)
            if not found:
                raise LogError(f"the log has no event {position}")
            return found[0].at_us
        return int(rows[0][0])

    async def close(self) -> None:
        self._readers.terminate()

    async def _read(self, what: str, query: str, *values: Any) -> list[asyncpg.Record]:
        async def attempt() -> list[asyncpg.Record]:
            connection: Connection
            async with self._readers.acquire() as connection:  # type: ignore[assignment]
                return await connection.fetch(query, *values)

        return await patiently(what, self._access.wait_s_max, attempt)
