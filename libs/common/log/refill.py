"""A log written anew into an empty database, as it was: positions, times, commands. One transaction: whole or not at all.

It goes through append_batch, as everything does that is written: so its digests and its chain are those of any log. Events of one
time are one batch, as they were written by one (or by several within one microsecond, which nothing tells apart).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import asyncpg

from libs.common.log import CommandRow, Group, LogError, NewEvent, Unavailable, Unit
from libs.common.log.batch import Batch
from libs.common.log.link import Connection
from libs.common.log.migrate import MigrationFailed, migrate
from libs.common.messages import Recorded, decode_meta

OPEN_S_MAX = 10.0
THERE = "select to_regclass('asv.log_head') is not null"
EMPTY = """
select position = 0 and not exists (select from asv.commands) and not exists (select from asv.consumers) from asv.log_head
"""


class NotEmpty(LogError):
    """There is something in it already: nothing was changed."""


class Row(NamedTuple):
    """A recorded command: the position of its first event (0: none), and when it was written."""

    position: int
    at_us: int
    id: str
    stream: str
    payload: bytes
    outcome: bytes


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


def batches(events: Sequence[Recorded], rows: Sequence[Row], versions: dict[str, int]) -> Iterator[tuple[int, list[Unit]]]:
    """(when, what was written then). versions: of the streams, counted here."""
    wrote = {row.position: row for row in rows if row.position}
    told = sorted((row for row in rows if not row.position), key=lambda row: (row.at_us, row.id))
    at = 0
    for at_us, group in groupby(events, lambda event: event.at_us):
        while at < len(told) and told[at].at_us < at_us:
            yield told[at].at_us, [_answer(told[at], versions)]
            at += 1
        units = list(_units(list(group), wrote, versions))
        while at < len(told) and told[at].at_us == at_us:
            units.append(_answer(told[at], versions))
            at += 1
        yield at_us, units
    for row in told[at:]:
        yield row.at_us, [_answer(row, versions)]


def _answer(row: Row, versions: Mapping[str, int]) -> Unit:
    return Unit(row.stream, versions.get(row.stream, 0), (), CommandRow(row.id, row.payload, row.outcome))


def _units(events: list[Recorded], wrote: Mapping[int, Row], versions: dict[str, int]) -> Iterator[Unit]:
    at = 0
    while at < len(events):
        first, end = events[at], at + 1
        row = wrote.get(first.position)
        command = decode_meta(first.meta).command
        while row and end < len(events) and events[end].stream == first.stream and _command(events[end]) == command:
            end += 1
        news = tuple(NewEvent(one.type, one.v, one.data, one.meta) for one in events[at:end])
        versions[first.stream] = first.version - 1 + len(news)
        yield Unit(first.stream, first.version - 1, news, CommandRow(row.id, row.payload, row.outcome) if row else None)
        at = end


def _command(event: Recorded) -> str:
    return decode_meta(event.meta).command
