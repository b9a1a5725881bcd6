"""The log in Postgres: one object per process, whose parts share one database and one idea of its incarnation.

log = await PostgresLog.open("postgresql:///asv?host=/run/asv")        # after `migrate`; raises Unavailable
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import asyncpg

from libs.common.clock import SystemClock
from libs.common.log import Appended, Duplicate, Eventless, Group, Head, LogError, Snapshot
from libs.common.log.archive.reading import Archives
from libs.common.log.link import WAIT_S_MAX, Access, Connection, Counters, patiently
from libs.common.log.listener import Listener
from libs.common.log.replay import replay
from libs.common.log.writer import Writer
from libs.common.messages import Recorded

READERS_MAX = 3
SYSTEM = SystemClock()
SAVE_SNAPSHOT = """
insert into asv.snapshots as s (name, position, schema, data) values ($1, $2, $3, $4)
on conflict (name) do update set position = excluded.position, schema = excluded.schema, data = excluded.data
where s.position <= excluded.position
"""


class _Reader(asyncpg.Connection):
    """A pooled connection on which nothing is ever set: there is nothing to reset after use."""

    def get_reset_query(self) -> str:
        return ""


class PostgresLog:
    """Keeps the contract of EventLog. Made by `open`. `counters`: what happened since."""

    def __init__(
        self, access: Access, readers: asyncpg.Pool[asyncpg.Record], clock_us: Callable[[], int], archive: Path | None = None
    ) -> None:
        self._access = access
        self._readers = readers
        self._archive = archive
        self._archives = Archives(self._read, archive)
        self._listener = Listener(access, self._position)
        self._writer = Writer(access, clock_us, self._listener.saw)

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        wait_s_max: float = WAIT_S_MAX,
        clock_us: Callable[[], int] = SYSTEM.now_us,
        incarnation: int = 0,
        archive: Path | None = None,
    ) -> Self:
        """`wait_s_max`: seconds to wait for a server that is away; `incarnation`: the one the caller knows, 0 for any;
        `archive`: the folder of archived events, where it is another one than they were written to.
        Raises Unavailable, Fenced, LogError (the database was not migrated, or does not let this role in)."""
        access = Access(dsn, incarnation, wait_s_max)
        first = await patiently("open", wait_s_max, access.connect)
        await first.close()

        async def check(connection: Any) -> None:
            access.check(await connection.fetchval("select incarnation from asv.log_head"))

        readers = asyncpg.create_pool(
            dsn, min_size=0, max_size=READERS_MAX, init=check, connection_class=_Reader, timeout=wait_s_max,
            server_settings={"jit": "off"},
        )  # fmt: skip
        await readers
        return cls(access, readers, clock_us, archive)

    @property
    def counters(self) -> Counters:
        return self._access.counters

    async def append(self, group: Group) -> Appended:
        return await self._writer.append(group)

    def submit(self, group: Group, done: Callable[[Appended | LogError], None]) -> None:
        self._writer.submit(group, done)

    async def head(self) -> Head:
        rows = await self._read("head", "select position, incarnation, at_us from asv.log_head")
        head = Head(*rows[0])
        self._access.check(head.incarnation)
        return head

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        return await self._archives.read_stream(stream, after, limit)

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        return await self._archives.read_all(after, limit)

    def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        return replay(self._access, after, until, self._archive)

    async def command(self, id: str) -> Duplicate | None:
        rows = await self._read("command", "select outcome, position from asv.commands where id = $1", id)
        return Duplicate(*rows[0]) if rows else None

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        return await self._archives.eventless(stream, limit)

    async def consumer_position(self, consumer: str) -> int:
        rows = await self._read("consumer_position", "select position from asv.consumers where name = $1", consumer)
        return int(rows[0][0]) if rows else 0

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Raises Unavailable, LogError."""
        values = snapshot.name, snapshot.position, snapshot.schema, snapshot.data
        await self._read("save_snapshot", SAVE_SNAPSHOT, *values)

    async def load_snapshot(self, name: str) -> Snapshot | None:
        query = "select name, position, schema, data from asv.snapshots where name = $1"
        rows = await self._read("load_snapshot", query, name)
        return Snapshot(*rows[0]) if rows else None

    async def wait(self, after: int, timeout_s: float) -> None:
        await self._listener.wait(after, timeout_s)

    async def close(self) -> None:
        await self._writer.close()
        await self._listener.close()
        self._readers.terminate()

    async def _position(self) -> int:
        return (await self.head()).position

    async def _read(self, what: str, query: str, *values: Any) -> list[asyncpg.Record]:
        if self._access.fenced is not None:
            raise self._access.fenced

        async def attempt() -> list[asyncpg.Record]:
            connection: Connection
            async with self._readers.acquire() as connection:  # type: ignore[assignment]
                return await connection.fetch(query, *values)

        return await patiently(what, self._access.wait_s_max, attempt)
