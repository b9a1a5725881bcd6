"""A partition of events, and all batches that end in it with their commands, written to a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from libs.common.log.archive import Header, Link, Ordered
from libs.common.log.archive.file import FRAME_ROWS, Making
from libs.common.log.archive.shelf import Shelved
from libs.common.log.link import Connection
from libs.common.messages import Recorded
from libs.retention import NotArchived
from libs.retention.policy import Partition

EVENTS = """
select position, stream, version, type, v, at_us, data, meta, hash
from asv.events where position > $1 and position <= $2 order by position
"""
LINKS = """
select number, first, last, at_us, commands, hash from asv.log_batches
where number > $1 and last <= $2 order by number limit $3
"""
COMMANDS = """
select batch, position, at_us, id, stream, payload, outcome, hash
from asv.commands where batch > $1 and batch <= $2 order by batch, position, id
"""
UNCHAINED = """
select 0, position, at_us, id, stream, payload, outcome, ''::bytea
from asv.commands where batch is null and (at_us, id) > ($1, $2) and at_us <= $3 order by at_us, id limit $4
"""
FIRST_LINK = "select hash from asv.log_batches where number = 1"


class Made(NamedTuple):
    """A file that is on disk, under a name that is not its own yet."""

    path: Path
    header: Header
    digest: bytes


async def make(connection: Connection, partition: Partition, before: Shelved | None, path: Path, now_us: int) -> Made:
    """before: the archive that this one follows. Reads one picture of the database. Raises NotArchived, OSError."""
    making = Making(path)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            pending, until_us = await _events(connection, partition, before, making)
            links = await _links(connection, partition, before, making)
            commands = await _commands(connection, before, links, making)
            header = await _header(connection, partition, before, links, pending, until_us, commands, now_us)
        digest = making.finish(header)
    except BaseException:
        making.give_up()
        raise
    return Made(path, header, digest)


async def _events(
    connection: Connection, partition: Partition, before: Shelved | None, making: Making
) -> tuple[list[tuple[int, bytes]], int]:
    """(position, digest) of those of which the batch may end later, and the time of the last one."""
    last = await connection.fetchval("select max(last) from asv.log_batches where last <= $1", partition.last)
    ended = last if last is not None else before.ended if before else 0
    pending: list[tuple[int, bytes]] = []
    for after in range(partition.first - 1, partition.last, FRAME_ROWS):
        until = min(after + FRAME_ROWS, partition.last)
        rows = await connection.fetch(EVENTS, after, until)
        if len(rows) != until - after:
            said = f"the log has {len(rows)} events where {after + 1} to {until} are to be archived"
            raise NotArchived(f"{said}: nothing of {partition.name} was taken away; `asvctl log verify` says what is missing")
        records = [Recorded(*row[:8]) for row in map(tuple, rows)]
        making.events(records, b"".join(row[8] for row in rows))
        pending += [(row[0], row[8]) for row in rows if row[0] > ended]
        until_us = records[-1].at_us
    return pending, until_us


async def _links(connection: Connection, partition: Partition, before: Shelved | None, making: Making) -> tuple[Link, Link] | None:
    """The first and the last batch that it has, where it has any."""
    ends: tuple[Link, Link] | None = None
    number = before.last_batch if before else 0
    while rows := await connection.fetch(LINKS, number, partition.last, FRAME_ROWS):
        links = [Link(*row) for row in rows]
        if links[-1].number != number + len(links):
            said = f"batches behind {number} are missing in asv.log_batches, and are to be archived"
            raise NotArchived(f"{said}: nothing of {partition.name} was taken away; `asvctl log verify` says which")
        making.batches(links)
        ends = (ends[0] if ends else links[0], links[-1])
        number = links[-1].number
    return ends


async def _commands(connection: Connection, before: Shelved | None, links: tuple[Link, Link] | None, making: Making) -> int:
    """How many. Those of a release that did not chain them go with their times."""
    if links is None:
        return 0
    count = 0
    async for rows in _unchained(connection, before.at_us if before else -1, links[1].at_us):
        making.commands(rows)
        count += len(rows)
    for after in range(links[0].number - 1, links[1].number, FRAME_ROWS):
        rows = [Ordered(*row) for row in await connection.fetch(COMMANDS, after, min(after + FRAME_ROWS, links[1].number))]
        if rows:
            making.commands(rows)
            count += len(rows)
    return count


async def _unchained(connection: Connection, after_us: int, until_us: int) -> AsyncIterator[Sequence[Ordered]]:
    at: tuple[int, str] = (after_us + 1, "")
    while rows := await connection.fetch(UNCHAINED, *at, until_us, FRAME_ROWS):
        found = [Ordered(*row) for row in rows]
        yield found
        at = found[-1].at_us, found[-1].id


async def _header(
    connection: Connection, partition: Partition, before: Shelved | None, links: tuple[Link, Link] | None,
    pending: list[tuple[int, bytes]], until_us: int, commands: int, now_us: int,
) -> Header:  # fmt: skip
    log: Any = before.log if before else await connection.fetchval(FIRST_LINK)
    if log is None:
        raise NotArchived(f"no batch ends up to position {partition.last}: there is nothing to prove {partition.name} by")
    batch = before.last_batch if before else 0
    hash, at_us, ended = (before.hash, before.at_us, before.ended) if before else (b"", 0, 0)
    carried = before.pending if before else b""
    last = links[1] if links else None
    behind = b"".join(digest for _, digest in pending)
    return Header(
        log=log, incarnation=await connection.fetchval("select incarnation from asv.log_head"),
        first=partition.first, last=partition.last, first_batch=batch + 1, last_batch=last.number if last else batch,
        ended=last.last if last else ended, before=hash, hash=last.hash if last else hash, before_us=at_us,
        at_us=last.at_us if last else at_us, until_us=until_us, carried=carried, carried_us=before.until_us if before else 0,
        pending=behind if last else carried + behind, commands=commands, made_us=now_us,
    )  # fmt: skip
