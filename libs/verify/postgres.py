"""What a log in Postgres has to show for itself (libs/verify), read by the role asv_reader.

Everything is asked for by ranges, the next one before this one is worked on (as in libs/common/log/replay.py). The server puts
together the bytes that an event's digest is of, as a row of many columns costs more to take apart than to hash; and it looks at the
commands' digests itself, as their hashes are all that the chain needs. What moves while one verifies (head, consumers, streams'
versions) is read in one transaction, whose picture stays as it was. What is archived comes from its files; while one verifies, no
partition is taken away (READING).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import asyncpg

from libs.common.log import LogError, Snapshot, Unavailable
from libs.common.log.archive.reading import shelf_of
from libs.common.log.archive.shelf import READING, Shelf
from libs.common.log.link import LOST, Access, Connection, patiently
from libs.verify import FEW, RANGE, Answered, Batch, Consumer, Ends, Kept, Orders, Proof, Start
from libs.verify.archived import answered, batch_of, behind, orders, proofs

WORDS = "textsend(stream || E'\\n' || version || E'\\n' || type || E'\\n' || v || E'\\n' || length(data) || E'\\n')"
FROM = "from asv.events where position > $1 and position <= $2 order by position"
EVENTS = f"select {WORDS} || data || meta, hash, stream, version, at_us {FROM}"
FULL = f"select {WORDS}, hash, stream, version, at_us, type, v, data, meta {FROM}"
POSITIONS = "select position from asv.events where position > $1 and position <= $2 order by position"
BATCHES = """
select number, first, last, at_us, commands, hash from asv.log_batches where number > $1 and number <= $2 order by number
"""
ORDERS = """
select batch, count(*), string_agg(hash, '' order by position, id),
    array_agg(id order by id) filter (where hash is distinct from case octet_length(hash)
        when 24 then substr(sha256(textsend(id || E'\\n' || stream || E'\\n' || length(payload) || E'\\n')
            || payload || outcome), 1, 16) || int8send(position)
        else substr(sha256(textsend(id || E'\\n' || stream || E'\\n' || position || E'\\n' || length(payload) || E'\\n')
            || payload || outcome), 1, 16) end),
    min(at_us), max(at_us), case when min(at_us) <> max(at_us) then array_agg((id, at_us) order by id) end, min(id)
from asv.commands where batch > $1 and batch <= $2 group by batch order by batch
"""
COMMANDS = """
select at_us, id, stream, position, payload, outcome from asv.commands where batch > $1 and batch <= $2 order by batch, position, id
"""
UNCHAINED = """
select at_us, id, stream, position, payload, outcome from asv.commands
where batch is null and at_us >= $1 and at_us > $2 order by at_us, position, id
"""
SINCE = "select coalesce(max(number), 0) from asv.log_batches where at_us < $1"
START = """
select number, last, hash, at_us from asv.log_batches
where number < (select number from asv.log_batches where last <= $1 and number > $2 order by last desc, number desc limit 1)
    and number > $2
order by number desc limit 1
"""
BY_INDEX = "set enable_sort = off; set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashagg = off"


class PostgresEvidence:
    """Keeps the contract of Evidence; `ends` takes a new picture of what moves. Made by `open`; `close` it."""

    def __init__(self, access: Access, still: Connection, shelf: Shelf, archives: bool) -> None:
        self._access = access
        self._still = still
        self.shelf = shelf
        self._archives = archives
        self._idle: dict[str, tuple[Connection, Any]] = {}
        """a connection for each question, and the question prepared on it"""

    @classmethod
    async def open(cls, dsn: str, wait_s_max: float = 5.0, archive: Path | None = None, archives: bool = True) -> Self:
        """archive: the folder of archives, where it is not the one they were written to; archives False: what is in the database
        alone. Raises Unavailable, LogError (not a log of this release, or this role may not read it)."""
        access = Access(dsn, wait_s_max=wait_s_max, settings={"default_transaction_read_only": "on"})
        still = await patiently("verify", wait_s_max, access.connect)
        try:
            await still.fetchval("select batches from asv.log_head")
            await still.execute(f"select pg_advisory_lock_shared({READING})")
            shelf = await shelf_of(still.fetch, archive)
        except asyncpg.PostgresError as error:
            still.terminate()
            raise LogError(f"verify: {error}; migrate the database to this release, and read it as asv_reader") from error
        return cls(access, still, shelf, archives)

    async def close(self) -> None:
        for connection, _ in self._idle.values():
            connection.terminate()
        self._still.terminate()

    async def ends(self) -> Ends:
        if self._still.is_in_transaction():
            await self._still.execute("rollback")
        await self._still.execute("begin isolation level repeatable read read only")
        ask = self._still.fetch
        head = (await ask("select position, at_us, incarnation, batches, hash from asv.log_head"))[0]
        consumers = await ask("select name, position, incarnation from asv.consumers order by name")
        kept = await ask("select name, position, schema from asv.snapshots order by name")
        beyond = await ask("select position from asv.events where position > $1 order by position limit 5", head[0])
        position, at_us, incarnation, batches, hash = head
        later = await ask("select number from asv.log_batches where number > $1 or number < 1 limit 5", batches)
        return Ends(
            position, at_us, incarnation, batches, hash,
            tuple(Consumer(*row) for row in consumers), tuple(Kept(*row) for row in kept),
            tuple(f"position {row[0]}" for row in beyond) + tuple(f"batch {row[0]}" for row in later),
        )  # fmt: skip

    async def snapshot(self, name: str) -> Snapshot | None:
        """A stored snapshot, with its bytes, as it was when `ends` was asked."""
        rows = await self._still.fetch("select name, position, schema, data from asv.snapshots where name = $1", name)
        return Snapshot(*rows[0]) if rows else None

    async def start(self, after: int) -> Start:
        kept = [row for row in self.shelf.rows if not self._archives or row.ended < after]
        last = kept[-1] if kept else None
        rows = await self._still.fetch(START, after, self.shelf.last_batch) if after > self.shelf.ended else []
        return Start(*rows[0]) if rows else behind(last)

    async def batches(self, after: int, until: int, step: int = RANGE) -> AsyncGenerator[Sequence[Batch]]:
        for links in self.shelf.batches(after, until):
            yield [batch_of(link) for link in links]
            await asyncio.sleep(0)
        async with aclosing(self._ranges(BATCHES, max(after, self.shelf.last_batch), until, step)) as ranges:
            async for _, _, rows in ranges:
                yield [Batch(*row) for row in rows]

    async def events(
        self, after: int, until: int, step: int = RANGE, full: bool = False
    ) -> AsyncGenerator[tuple[int, Sequence[Proof]]]:
        for records, digests in self.shelf.events(after, until):
            yield records[0].position, proofs(records, digests, full)
            await asyncio.sleep(0)
        async with aclosing(self._ranges(FULL if full else EVENTS, max(after, self.shelf.last), until, step)) as ranges:
            async for first, last, rows in ranges:
                if len(rows) == last - first + 1:
                    yield first, rows  # as records of the driver: a Struct for each would cost more than its digest
                else:
                    for at, run in await self._runs(first, last, rows):
                        yield at, run

    async def orders(self, after: int, until: int, step: int = RANGE) -> AsyncGenerator[Sequence[Orders]]:
        for found in orders(row for rows in self.shelf.commands(after, until) for row in rows):
            yield [found]
        async with aclosing(self._ranges(ORDERS, max(after, self.shelf.last_batch), until, step)) as ranges:
            async for _, _, rows in ranges:
                yield [
                    Orders(batch, count, hashes or b"", wrong or (), earliest, latest, times or (), id)
                    for batch, count, hashes, wrong, earliest, latest, times, id in rows
                ]

    async def commands(self, since_us: int) -> AsyncGenerator[Sequence[Answered]]:
        """All commands decided since then, refused ones too, in order; those of a release that did not chain them come first."""
        for ordered in self.shelf.commands_since(since_us):
            yield answered(ordered)
        if old := await self._still.fetch(UNCHAINED, since_us, self.shelf.at_us):
            yield [Answered(*row) for row in old]
        after = max(await self._still.fetchval(SINCE, since_us), self.shelf.last_batch)
        until = await self._still.fetchval("select batches from asv.log_head")
        async with aclosing(self._ranges(COMMANDS, after, until, FEW)) as ranges:
            async for _, _, rows in ranges:
                yield [Answered(*row) for row in rows]

    async def heads(self) -> AsyncIterator[Sequence[tuple[str, int]]]:
        last = ""
        query = "select stream, version from asv.stream_heads where stream > $1 order by stream limit 5000"
        while rows := await self._still.fetch(query, last):
            yield [(row[0], row[1]) for row in rows]
            last = rows[-1][0]

    async def _runs(self, first: int, last: int, rows: Sequence[Any]) -> list[tuple[int, Sequence[Any]]]:
        """The rows of a range that has gaps, in pieces without any."""
        positions = [row[0] for row in await self._still.fetch(POSITIONS, first - 1, last)]
        if len(positions) != len(rows):
            raise LogError(f"verify: positions {first} to {last} changed while they were read: verify again")
        starts = [n for n, position in enumerate(positions) if n == 0 or position != positions[n - 1] + 1]
        return [(positions[a], rows[a:b]) for a, b in zip(starts, [*starts[1:], len(positions)], strict=True)]

    async def _ranges(self, query: str, after: int, until: int, step: int) -> AsyncGenerator[tuple[int, int, list[Any]]]:
        """(first, last, rows) by ranges of the numbers after+1..until."""
        if after >= until:
            return
        connection, statement = self._idle.pop(query) if query in self._idle else await self._prepared(query)

        def ask(at: int) -> asyncio.Task[list[Any]] | None:
            return asyncio.ensure_future(statement.fetch(at, min(at + step, until))) if at < until else None

        following = ask(after)
        at = after
        try:
            while following is not None:
                rows = await following
                first, at = at + 1, min(at + step, until)
                following = ask(at)
                await asyncio.sleep(0)  # lets the question go out before the answer to the last one is worked on
                yield first, at, rows
        except (*LOST, asyncpg.PostgresError) as error:
            connection.terminate()
            raise Unavailable(f"verify: the database was lost ({error}); ask again") from error
        finally:
            if following is not None:  # given up under way: its connection is of use again once that is answered
                await asyncio.gather(following, return_exceptions=True)
            if not connection.is_closed():
                self._idle[query] = connection, statement

    async def _prepared(self, query: str) -> tuple[Connection, Any]:
        connection = await patiently("verify", self._access.wait_s_max, self._access.connect)
        await connection.execute(BY_INDEX)
        return connection, await connection.prepare(query)
