"""A log written anew into an empty database, as it was: positions, times, commands. One transaction: whole or not at all.

It goes through append_batch, as everything does that is written: so its digests and its chain are those of any log. Events of one
time are one batch, as they were written by one (or by several within one microsecond, which nothing tells apart).
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from libs.common.log import Group, LogError, Unavailable
from libs.common.log.batch import Batch
from libs.common.log.link import Connection
from libs.common.log.migrate import MigrationFailed, migrate
from libs.common.log.rows import Row, batches
from libs.common.messages import Recorded

OPEN_S_MAX = 10.0
THERE = "select to_regclass('asv.log_head') is not null"
EMPTY = """
select position = 0 and not exists (select from asv.commands) and not exists (select from asv.consumers) from asv.log_head
"""


class NotEmpty(LogError):
    """There is something in it already: nothing was changed."""


async def refill(dsn: str, events: Sequence[Recorded], rows: Sequence[Row], incarnation: int, consumers: Sequence[str]) -> None:
    """dsn: of a database whose owner that is; what it lacks of a log is made. events: from position 1 on, without holes.
    consumers: services that have reacted to all of it. Raises NotEmpty, Unavailable, LogError (nothing was written)."""
    try:
        connection: Connection = await asyncpg.connect(dsn, timeout=OPEN_S_MAX)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise Unavailable(f"the database is not to be had: {error}") from error
    try:
        if await connection.fetchval(THERE):
            await _empty(connection)
        await migrate(dsn)
        async with connection.transaction():
            await connection.execute("set local role asv_owner")
            await connection.execute("lock table asv.log_head in exclusive mode")
            await _empty(connection)
            await connection.execute("update asv.log_head set incarnation = $1", incarnation)
            await _write(connection, events, rows, incarnation, consumers)
    except (asyncpg.PostgresError, MigrationFailed) as error:
        raise LogError(f"nothing was written: {error}") from error
    finally:
        await connection.close()


async def _empty(connection: Connection) -> None:
    if not await connection.fetchval(EMPTY):
        at = await connection.fetchval("select position from asv.log_head")
        raise NotEmpty(f"the log is not empty: its last event is {at}. Nothing was changed; name a new database")


async def _write(
    connection: Connection, events: Sequence[Recorded], rows: Sequence[Row], incarnation: int, consumers: Sequence[str]
) -> None:
    versions: dict[str, int] = {}
    for at_us, units in batches(events, rows, versions):
        batch = Batch()
        batch.add(Group(tuple(units)))
        statement, values = batch.call(incarnation, at_us)
        lost = batch.outcome(await connection.fetchrow(statement, *values)).lost
        if lost:
            raise LogError(f"nothing was written: this is no one log: {next(iter(lost.values()))}")
    for name in consumers:
        mark = Batch()
        mark.add(Group((), name, len(events)))
        statement, values = mark.call(incarnation, 0)
        await connection.fetchrow(statement, *values)
    at = await connection.fetchval("select position from asv.log_head")
    if at != len(events):
        raise LogError(f"nothing was written: {at} events became of {len(events)}")
