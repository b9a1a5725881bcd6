"""What a log gives from its archives and its database as one. The database is asked first: where it has what was asked for, as it
nearly always has, nothing else is looked at.

While one reads, a partition may be archived: what then is not in the database any more is in a file, and asv.archives says so. So a
hole is looked up there before it is told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg

from libs.common.log import Eventless, LogError
from libs.common.log.archive.shelf import SHELVED, Shelf, Shelved
from libs.common.messages import Recorded

READ_STREAM = """
select position, stream, version, type, v, at_us, data, meta
from asv.events where stream = $1 and version > $2 order by version limit $3
"""
READ_ALL = """
select position, stream, version, type, v, at_us, data, meta
from asv.events where position > $1 order by position limit $2
"""
EVENTLESS = """
select at_us, id, payload, outcome from asv.commands
where stream = $1 and position = 0 order by at_us desc, id desc limit $2
"""
VERSION = "select version from asv.stream_heads where stream = $1"

type Ask = Callable[..., Awaitable[Sequence[Any]]]
"""(what for, query, values …) -> rows. Raises LogError."""


async def shelf_of(fetch: Callable[[str], Awaitable[Sequence[Any]]], folder: Path | None) -> Shelf:
    """As the database has it now. Raises LogError, and what `fetch` raises."""
    try:
        return Shelf([Shelved(*row) for row in await fetch(SHELVED)], folder)
    except (asyncpg.UndefinedTableError, LogError) as error:
        if isinstance(error, LogError) and not isinstance(error.__cause__, asyncpg.UndefinedTableError):
            raise
        return Shelf((), folder)  # of a release that had no archives


class Archives:
    """folder: where the files are; None: where each was written. All methods raise LogError, BadArchive."""

    def __init__(self, ask: Ask, folder: Path | None = None) -> None:
        self._ask = ask
        self._folder = folder
        self._shelf: Shelf | None = None

    async def shelf(self, *, anew: bool = False) -> Shelf:
        if anew or self._shelf is None:

            async def fetch(query: str) -> Sequence[Any]:
                return await self._ask("archives", query)

            found = await shelf_of(fetch, self._folder)
            if self._shelf is None or found.rows != self._shelf.rows:
                self._shelf = found  # else the one at hand has its files open
        return self._shelf

    async def read_all(self, after: int, limit: int) -> list[Recorded]:
        """See EventLog. The partition that holds the log's end is never archived: where there are events behind, there are rows."""
        rows = await self._ask("read_all", READ_ALL, after, limit)
        after = max(after, 0)
        if not rows or rows[0][0] == after + 1 or limit < 1:
            return [Recorded(*row) for row in rows]
        shelf = await self.shelf()
        if shelf.last <= after:
            shelf = await self.shelf(anew=True)
        end = min(after + limit, shelf.last)
        found = [recorded for records, _ in shelf.events(after, end) for recorded in records]
        if not found:
            raise LogError(f"the log has no event {after + 1}, and begins at {rows[0][0]} behind it; no archive has it either")
        return found + ([Recorded(*row) for row in rows[: limit - len(found)]] if end == shelf.last else [])

    async def read_stream(self, stream: str, after: int, limit: int) -> list[Recorded]:
        rows = await self._ask("read_stream", READ_STREAM, stream, after, limit)
        after = max(after, 0)
        if (rows and rows[0][2] == after + 1) or limit < 1:
            return [Recorded(*row) for row in rows]
        if not rows:
            head = await self._ask("read_stream", VERSION, stream)
            if not head or head[0][0] <= after:
                return []
        shelf = await self.shelf(anew=True)
        found = await asyncio.to_thread(shelf.of_stream, stream, after, limit)
        known = {recorded.version for recorded in found}
        return (found + [r for row in rows if (r := Recorded(*row)).version not in known])[:limit]

    async def eventless(self, stream: str, limit: int) -> list[Eventless]:
        """Archived commands stay in the database for a while: so the newest are there in any case."""
        found = [Eventless(*row) for row in await self._ask("eventless", EVENTLESS, stream, limit)]
        shelf = await self.shelf()
        if len(found) >= limit or not shelf.rows:
            return found
        known = {one.id for one in found}
        more = (row for row in shelf.answers(stream) if row.id not in known)
        rows = await asyncio.to_thread(lambda: list(islice(more, limit - len(found))))
        return found + [Eventless(row.at_us, row.id, row.payload, row.outcome) for row in rows]


async def archived(shelf: Shelf, after: int, until: int) -> AsyncIterator[list[Recorded]]:
    """Archived events with after < position <= until. Others get their turn between two chunks."""
    for records, _ in shelf.events(after, until):
        yield records
        await asyncio.sleep(0)
