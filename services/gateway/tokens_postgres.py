"""Tokens in Postgres (infra/sql: tokens, join_tokens). Same contract as MemoryTokens; one small pool, short statements."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate

import asyncpg

from services.gateway.auth import Role
from services.gateway.tokens import TOKENS_MAX, StoreAway, TokenRow

_log = logging.getLogger(__name__)

POOL_MAX = 3
WAIT_S_MAX = 3.0
AGAIN_S = 0.5
"""the wait before a lost connection is made anew"""
CHANNEL = "asv_tokens"

GET = "select id, hash, name, role, projects, expires_us, revoked from asv.tokens where id = $1"
LIST = "select id, hash, name, role, projects, expires_us, revoked from asv.tokens order by name, id limit $1"
ADD = """insert into asv.tokens (id, hash, name, role, projects, expires_us, created_us)
         values ($1, $2, $3, $4, $5, $6, (extract(epoch from clock_timestamp()) * 1e6)::bigint)"""
REVOKE = "update asv.tokens set revoked = true where id = $1"
ADD_JOIN = "insert into asv.join_tokens (hash, expires_us) values ($1, $2)"
COUNTS_JOIN = "select true from asv.join_tokens where hash = $1 and used_us is null and expires_us > $2"
USE_JOIN = """update asv.join_tokens set used_by = $2, used_us = $3
              where hash = $1 and used_us is null and expires_us > $3"""
GIVE_BACK = "update asv.join_tokens set used_by = null, used_us = null where hash = $1 and used_by = $2"

type Method[**P, R] = Callable[Concatenate[PostgresTokens, P], Coroutine[Any, Any, R]]


def _bounded[**P, R](method: Method[P, R]) -> Method[P, R]:
    """Whatever keeps the server from answering in time becomes StoreAway."""

    async def call(self: PostgresTokens, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                return await method(self, *args, **kwargs)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreAway(f"the token table cannot be reached: {str(error) or type(error).__name__}") from error

    return call


class PostgresTokens:
    """A TokenStore. `open` before use, `close` after."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Raises StoreAway."""
        await self._ready()

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()

    @_bounded
    async def _ready(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            self._pool = await asyncpg.create_pool(self._dsn, min_size=0, max_size=POOL_MAX)
        return self._pool

    async def watch(self, changed: Callable[[str], None]) -> None:
        """By NOTIFY, on a connection of its own, which is made anew where it is lost."""
        while True:
            connection: asyncpg.Connection[asyncpg.Record] | None = None
            try:
                connection = await asyncpg.connect(self._dsn, timeout=WAIT_S_MAX)
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                await connection.add_listener(CHANNEL, lambda _c, _pid, _channel, told: changed(str(told)))
                changed("")  # whatever came in between
                await lost.wait()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.debug("changes of tokens are not heard: %s", error)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(AGAIN_S)

    @_bounded
    async def get(self, id: str) -> TokenRow | None:
        row = await (await self._ready()).fetchrow(GET, id)
        return None if row is None else _row(row)

    @_bounded
    async def rows(self) -> list[TokenRow]:
        return [_row(row) for row in await (await self._ready()).fetch(LIST, TOKENS_MAX)]

    @_bounded
    async def add(self, row: TokenRow) -> None:
        values = (row.id, row.hash, row.name, row.role.value, list(row.projects), row.expires_us)
        await (await self._ready()).execute(ADD, *values)

    @_bounded
    async def revoke(self, id: str) -> bool:
        return _changed(await (await self._ready()).execute(REVOKE, id))

    @_bounded
    async def add_join(self, hash: bytes, expires_us: int) -> None:
        await (await self._ready()).execute(ADD_JOIN, hash, expires_us)

    @_bounded
    async def join_counts(self, hash: bytes, now_us: int) -> bool:
        return bool(await (await self._ready()).fetchval(COUNTS_JOIN, hash, now_us))

    @_bounded
    async def use_join(self, hash: bytes, node: str, now_us: int) -> bool:
        return _changed(await (await self._ready()).execute(USE_JOIN, hash, node, now_us))

    @_bounded
    async def give_back_join(self, hash: bytes, node: str) -> None:
        await (await self._ready()).execute(GIVE_BACK, hash, node)


def _changed(tag: str) -> bool:
    """`UPDATE 1` -> True."""
    return tag.rpartition(" ")[2] != "0"


def _row(row: Any) -> TokenRow:
    return TokenRow(
        row["id"],
        row["hash"],
        row["name"],
        Role(row["role"]),
        tuple(row["projects"]),
        row["expires_us"],
        row["revoked"],
    )
