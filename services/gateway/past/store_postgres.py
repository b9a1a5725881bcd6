"""Kept snapshots in Postgres (infra/sql/019). Same contract as MemoryKept; a connection for each call, as calls are few and
large."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg

from libs.common.log import Snapshot, Unavailable
from services.gateway.past.kept import NAME

WAIT_S_MAX = 10.0

KEEP = """
insert into asv.kept_snapshots (name, position, schema, data) values ($1, $2, $3, $4)
on conflict (name, position) do update set schema = excluded.schema, data = excluded.data
"""
NEAREST = """
select name, position, schema, data from asv.kept_snapshots
where name = $1 and position <= $2 and schema = $3 order by position desc limit 1
"""
POSITIONS = "select position from asv.kept_snapshots where name = $1 and schema = $2 order by position"
DROP = "delete from asv.kept_snapshots where name = $1 and position = any($2::bigint[])"
DROP_OTHERS = "delete from asv.kept_snapshots where name = $1 and schema <> $2"


class PostgresKept:
    """A KeptStore."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        try:
            connection = await asyncpg.connect(self._dsn, timeout=WAIT_S_MAX, command_timeout=WAIT_S_MAX)
            try:
                yield connection
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(f"kept snapshots cannot be reached: {str(error) or type(error).__name__}") from error

    async def keep(self, snapshot: Snapshot) -> None:
        async with self._open() as connection:
            await connection.execute(KEEP, snapshot.name, snapshot.position, snapshot.schema, snapshot.data)

    async def nearest(self, position: int, schema: str) -> Snapshot | None:
        async with self._open() as connection:
            row = await connection.fetchrow(NEAREST, NAME, position, schema)
        return None if row is None else Snapshot(*row)

    async def positions(self, schema: str) -> list[int]:
        async with self._open() as connection:
            return [row[0] for row in await connection.fetch(POSITIONS, NAME, schema)]

    async def drop(self, positions: Iterable[int]) -> None:
        async with self._open() as connection:
            await connection.execute(DROP, NAME, list(positions))

    async def drop_others(self, schema: str) -> None:
        async with self._open() as connection:
            await connection.execute(DROP_OTHERS, NAME, schema)
