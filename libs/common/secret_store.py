"""The store of secrets as a process has it: by the address of the log's database and a key file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from libs.common.secrets import Keys, PostgresSecrets, Secret, SecretsAway

POOL_MAX = 4
WAIT_S_MAX = 5.0


class OwnSecrets:
    """PostgresSecrets by a DSN and a key file. The database is connected to when first used, the file read each time, as keys are
    rotated meanwhile. make: it is made where it is missing (by one process of a cluster)."""

    def __init__(self, dsn: str, key_file: Path, make: bool = False) -> None:
        self._dsn = dsn
        self._key_file = key_file
        self._make = make
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def put(self, plain: bytes, at_us: int) -> Secret:
        return await self._bounded(lambda store: store.put(plain, at_us))

    async def get(self, secret: Secret) -> bytes:
        return await self._bounded(lambda store: store.get(secret))

    async def forget(self, secret: Secret) -> None:
        await self._bounded(lambda store: store.forget(secret))

    async def rekey(self) -> int:
        return await self._bounded(lambda store: store.rekey())

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()

    async def _bounded[T](self, work: Callable[[PostgresSecrets], Awaitable[T]]) -> T:
        """Raises SecretsAway for whatever keeps the server from answering in time."""
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                async with self._opening:
                    keys = Keys.create(self._key_file) if self._make else Keys.load(self._key_file)
                    if self._pool is None:
                        self._pool = await asyncpg.create_pool(self._dsn, min_size=0, max_size=POOL_MAX)
                return await work(PostgresSecrets(self._pool, keys))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise SecretsAway(f"the secrets cannot be reached: {str(error) or type(error).__name__}") from error
