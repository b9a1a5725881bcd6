"""The whole log, fast: ranges of positions through one prepared statement, the next asked for before this one is taken.

Positions have no gap, so that a range is as many rows as it is long, and a row need not say its own; the server works on the next
range while this process makes Structs of the last. Nothing is in memory but these two. (Why not COPY:
docs/decisions/0006-replay-by-ranges.md.) What is archived comes from files (libs/common/log/archive).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from libs.common.log import LogError, Unavailable
from libs.common.log.archive.reading import archived, shelf_of
from libs.common.log.link import LOST, Access, Connection
from libs.common.messages import Recorded

RANGE = 1536
"""rows at a time: few enough to stay near the processor between the driver and the Structs"""

QUERY = """
select stream, version, type, v, at_us, data, meta
from asv.events where position > $1 and position <= $2 order by position
"""


async def replay(access: Access, after: int, until: int | None, folder: Path | None = None) -> AsyncIterator[Sequence[Recorded]]:
    """See EventLog.replay. Raises Unavailable when the connection is lost under way: what was given is good. folder: of archives;
    None: where each was written."""
    try:
        connection = await access.connect()
    except (*LOST, asyncpg.PostgresError) as error:
        raise Unavailable(f"replay: the database is away ({error}); ask again") from error
    try:
        # Positions are the order of the primary key; a sort would only hold the first row back.
        await connection.execute("set enable_sort = off; set enable_seqscan = off; set enable_bitmapscan = off")
        head = await connection.fetchval("select position from asv.log_head")
        end = head if until is None else min(until, head)
        at = max(after, 0)
        while at < end:
            shelf = await shelf_of(connection.fetch, folder)
            async for chunk in archived(shelf, at, end):
                at = chunk[-1].position
                yield chunk
            hole = ""
            async for chunk, hole in _ranges(connection, at, end):
                if not hole:
                    at = chunk[-1].position
                    yield chunk
            if hole and (await shelf_of(connection.fetch, folder)).last <= at:
                raise LogError(hole)  # else it was archived meanwhile
    except (*LOST, asyncpg.PostgresError) as error:
        raise Unavailable(f"replay: the database was lost ({error}); ask again") from error
    finally:
        connection.terminate()


async def _ranges(connection: Connection, at: int, end: int) -> AsyncIterator[tuple[list[Recorded], str]]:
    """What is in the database behind `at`; last of all a sentence, where there is a hole."""
    following: asyncio.Task[list[Any]] | None = None
    try:
        ask = (await connection.prepare(QUERY)).fetch
        while at < end:
            rows = await (following or asyncio.ensure_future(ask(at, min(at + RANGE, end))))
            first, at = at + 1, at + RANGE
            if len(rows) != min(at, end) - first + 1:
                following = None
                there = f"the log has {len(rows)} events where {first} to {min(at, end)} are asked for"
                yield [], f"{there}: `asvctl log verify` says which are missing"
                return
            following = asyncio.ensure_future(ask(at, min(at + RANGE, end))) if at < end else None
            await asyncio.sleep(0)  # lets the question go out before the answer to the last one is worked on
            # Taken apart here: a call with *row would make a tuple of each row first.
            chunk = [Recorded(p, s, n, t, v, us, data, meta) for p, (s, n, t, v, us, data, meta) in enumerate(rows, first)]
            del rows  # their memory is at hand, and still warm, for the next ones
            yield chunk, ""
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
