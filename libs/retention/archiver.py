"""Partitions into archives, in one order:

    write     the file, under another name, on disk
    prove     it is read back, and held against the chain
    name      it gets its name, and the folder is on disk
    record    a row of asv.archives: from here on it is read where the partition is not
    detach    the partition leaves the table, without anybody waiting: `detach … concurrently`
    drop      it is gone, and the row says so, in one transaction
    tidy      at the next run: batches that are in files, and commands that are and are old enough, are deleted

A crash after any of these leaves all events in the database or in a file that is recorded, and the next run goes on from there. The
owner's connection is needed (a member of asv_owner); one run goes on at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec

from libs.common.log import LogError, Unavailable
from libs.common.log.archive.file import Archive, name_of
from libs.common.log.archive.reading import shelf_of
from libs.common.log.archive.shelf import ARCHIVING, READING, Shelf, Shelved
from libs.common.log.link import LOST, Connection
from libs.retention import NotArchived
from libs.retention.making import Made, make
from libs.retention.policy import DAY_US, Marks, Partition, Policy, due, obstacles
from libs.retention.proving import prove

PARTITIONS = """
select c.relname, pg_get_expr(c.relpartbound, c.oid), i.inhdetachpending
from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'asv.events'::regclass
"""
TIME = "select at_us from asv.events where position = $1"
FOLDER_MODE = 0o750
TIDY_ROWS = 20_000
"""rows that are deleted at once"""
OLD_COMMANDS = """
delete from asv.commands where id in (
    select id from asv.commands where (batch <= $1 or batch is null and at_us <= $2) and at_us < $3 limit $4)
"""
OLD_BATCHES = "delete from asv.log_batches where number in (select number from asv.log_batches where number <= $1 limit $2)"


class Run(NamedTuple):
    """What one run did. archived: the rows; blocked: sentences about the partition that was due and could not be."""

    archived: list[Shelved]
    blocked: list[str]


class Archiver:
    """Made by `open`; `close` it. step: told of each step before it is taken, as `(word, what)`."""

    def __init__(self, connection: Connection, folder: Path, step: Callable[[str, str], None]) -> None:
        self._connection = connection
        self._folder = folder
        self._step = step

    @classmethod
    async def open(cls, dsn: str, folder: Path, step: Callable[[str, str], None] = lambda word, what: None) -> Archiver:
        """folder: of the files, absolute. Raises Unavailable, NotArchived (this role may not, or another run goes on)."""
        try:
            connection = await asyncpg.connect(dsn, timeout=10.0, server_settings={"jit": "off"})
        except (*LOST, asyncpg.PostgresError) as error:
            raise Unavailable(f"archive: the database is away ({error})") from error
        try:
            await connection.execute("set role asv_owner")
            await connection.fetchval("select count(*) from asv.archives")
            free = await connection.fetchval("select pg_try_advisory_lock($1)", ARCHIVING)
        except asyncpg.PostgresError as error:
            connection.terminate()
            said = "archive as a member of asv_owner, and migrate the database to this release"
            raise NotArchived(f"nothing can be archived by this role: {error}; {said}") from error
        if not free:
            connection.terminate()
            raise NotArchived("another run archives this log just now: let it end")
        return cls(connection, folder, step)

    async def close(self) -> None:
        await self._connection.close()

    async def run(self, policy: Policy, needed: Collection[str], now_us: int) -> Run:
        """needed: who must have a snapshot. Raises NotArchived, BadArchive, Unavailable, LogError (disk)."""
        try:
            return await self._run(policy, needed, now_us)
        except (*LOST, asyncpg.PostgresError) as error:
            if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
                said = f"{error.filename or self._folder} cannot be written: {error.strerror}"
                raise NotArchived(f"{said}; nothing more was taken away, and the next run goes on from there") from error
            raise Unavailable(f"archive: the database was lost ({error}); run it again, it goes on from there") from error

    async def policy(self) -> Policy:
        row = await self._connection.fetchrow("select keep_events, keep_days, commands_days from asv.retention")
        return Policy(**dict(row)) if row else Policy()

    async def partition_events(self) -> int:
        return int(await self._connection.fetchval("select partition_events from asv.log_head"))

    async def set_policy(self, policy: Policy, partition_events: int | None = None) -> None:
        """partition_events: of the partitions that are made from now on; None: as it was."""
        query = "update asv.retention set keep_events = $1, keep_days = $2, commands_days = $3"
        await self._connection.execute(query, policy.keep_events, policy.keep_days, policy.commands_days)
        if partition_events is not None:
            await self._connection.execute("update asv.log_head set partition_events = $1", partition_events)

    async def plan(self, policy: Policy, now_us: int) -> list[Partition]:
        """What is due, oldest first."""
        shelf, head = await self._shelf(), await self._connection.fetchval("select position from asv.log_head")
        there = [one for one in await self._partitions() if one.first > shelf.last]
        return due(there, head, policy, now_us)

    async def _run(self, policy: Policy, needed: Collection[str], now_us: int) -> Run:
        await self._tidy(policy, now_us)
        for row in (await self._shelf()).rows:
            if not row.dropped:
                await self._take_away(row)
        found = Run([], [])
        for partition in await self.plan(policy, now_us):
            found.blocked.extend(obstacles(partition, await self._marks(), needed))
            if found.blocked:
                break
            found.archived.append(await self._archive(partition, now_us))
        return found

    async def _shelf(self) -> Shelf:
        return await shelf_of(self._connection.fetch, None)

    async def _partitions(self) -> list[Partition]:
        found = []
        for name, bound, pending in await self._connection.fetch(PARTITIONS):
            first, end = _bounds(bound)
            until_us = await self._connection.fetchval(TIME, end - 1)
            found.append(Partition(name, first, end - 1, until_us or 0, pending))
        return found

    async def _marks(self) -> Marks:
        consumers = await self._connection.fetch("select name, position from asv.consumers")
        snapshots = await self._connection.fetch("select name, position from asv.snapshots")
        return Marks({row[0]: row[1] for row in consumers}, {row[0]: row[1] for row in snapshots})

    async def _archive(self, partition: Partition, now_us: int) -> Shelved:
        shelf = await self._shelf()
        before = shelf.rows[-1] if shelf.rows else None
        if partition.first != shelf.last + 1:
            raise NotArchived(f"positions {shelf.last + 1} to {partition.first - 1} are in no archive and in no partition")
        self._folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        self._step("write", partition.name)
        made = await make(self._connection, partition, before, self._folder / f".{partition.name}.new", now_us)
        try:
            self._step("prove", partition.name)
            await prove(Archive.open(made.path), before, self._connection)
            self._step("name", partition.name)
            path, archive = self._named(made)
        finally:
            made.path.unlink(missing_ok=True)
        self._step("record", partition.name)
        row = _row(archive, path, now_us)
        await self._record(row)
        await self._take_away(row)
        return row._replace(dropped=True)

    def _named(self, made: Made) -> tuple[Path, Archive]:
        """One of that name may be there: of a run that ended before it was recorded. It is taken as it is, if it is the same."""
        header = made.header
        path = self._folder / name_of(header.log, header.first, header.last)
        if not path.exists():
            made.path.rename(path)
            _sync(self._folder)
            return path, Archive.open(path)
        there = Archive.open(path)
        there.check()
        if msgspec.structs.replace(there.header, made_us=header.made_us, incarnation=header.incarnation) == header:
            return path, there
        said = f"{path} is there already, and is of another history of this log (a restored database?)"
        raise NotArchived(f"{said}: nothing was taken away; move it to another folder, and archive again")

    async def _record(self, row: Shelved) -> None:
        names = ", ".join(Shelved._fields)
        values = ", ".join(f"${n}" for n in range(1, len(Shelved._fields) + 1))
        await self._connection.execute(f"insert into asv.archives ({names}) values ({values})", *row)  # noqa: S608 our own words

    async def _take_away(self, row: Shelved) -> None:
        """The partition of an archive that is recorded. The file is looked at whole once more before that."""
        Archive.open(self._folder_of(row) / row.name, row.registered).check()
        name = f"events_{row.first}"
        await self._connection.execute("select pg_advisory_lock($1)", READING)
        try:
            for partition in await self._partitions():
                if partition.first == row.first:
                    name = partition.name
                    self._step("detach", name)
                    how = "finalize" if partition.pending else "concurrently"
                    await self._connection.execute(f'alter table asv.events detach partition asv."{name}" {how}')
            self._step("drop", name)
            async with self._connection.transaction():
                await self._connection.execute(f'drop table if exists asv."{name}"')
                await self._connection.execute("update asv.archives set dropped = true where first = $1", row.first)
            self._step("dropped", name)
        finally:
            if not self._connection.is_closed():
                await self._connection.execute("select pg_advisory_unlock($1)", READING)

    def _folder_of(self, row: Shelved) -> Path:
        """Where it was written, or where files are now."""
        written = Path(row.folder)
        return written if (written / row.name).exists() else self._folder

    async def _tidy(self, policy: Policy, now_us: int) -> None:
        """What earlier runs have archived. (Who reads meanwhile still has the rows of those that this run archives.)"""
        gone = [row for row in (await self._shelf()).rows if row.dropped]
        if not gone:
            return
        last = gone[-1]
        self._step("tidy", f"batches up to {last.last_batch}")
        while await self._deleted(OLD_BATCHES, last.last_batch, TIDY_ROWS):
            pass
        old = now_us - int(policy.commands_days * DAY_US)
        while await self._deleted(OLD_COMMANDS, last.last_batch, last.at_us, old, TIDY_ROWS):
            pass

    async def _deleted(self, query: str, *values: int) -> int:
        return int((await self._connection.execute(query, *values)).rpartition(" ")[2])


def _bounds(bound: str) -> tuple[int, int]:
    """Of `FOR VALUES FROM ('1') TO ('4000001')`. Raises LogError."""
    try:
        first, end = (int(word.strip("()'")) for word in bound.removeprefix("FOR VALUES FROM ").split(" TO "))
    except ValueError as error:
        raise LogError(f"asv.events has a partition of another kind: {bound}") from error
    return first, end


def _row(archive: Archive, path: Path, now_us: int) -> Shelved:
    h = archive.header
    return Shelved(
        h.first, h.last, h.first_batch, h.last_batch, h.ended, h.at_us, h.until_us, now_us, path.stat().st_size, False,
        h.log, h.hash, h.pending, archive.digest, path.name, str(path.parent),
    )  # fmt: skip


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
