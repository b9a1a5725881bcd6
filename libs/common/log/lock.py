"""A lock that one process has, as long as its session in the log's database lives.

    lock = SessionLock(dsn, KEY)
    had = await lock.check(timeout_s)      # takes it where it is free; several times a second

The server ends a session that says nothing for IDLE_S, as of a process that stands still or is cut off, and so frees its lock.
Who has it learns by `check` alone: an answer says that it was had when the question was *sent*.
"""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from libs.common.log.link import LOST, Connection

log = logging.getLogger(__name__)

IDLE_S = 3.0
"""more than the longest pause between two checks, less than what anybody would wait for a successor"""
SETTINGS = {
    "jit": "off",
    "idle_session_timeout": f"{round(IDLE_S * 1000)}",
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
}
TRY = "select pg_try_advisory_lock($1)"
HAVE = """
select exists (
    select from pg_locks
    where locktype = 'advisory' and pid = pg_backend_pid() and granted and objsubid = 1
      and (classid::bigint << 32) | objid::bigint = $1
)
"""


class SessionLock:
    """On a connection of its own, which nobody else uses."""

    def __init__(self, dsn: str, key: int) -> None:
        """key: 64 bits, positive."""
        self._dsn = dsn
        self._key = key
        self._connection: Connection | None = None
        self._had = False

    async def check(self, timeout_s: float) -> bool:
        """Whether it is had. False where it is another's, or the database does not answer in time: then the session is given up,
        and with it what it may have had."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._connection is None:
                    self._connection = await asyncpg.connect(self._dsn, timeout=timeout_s, server_settings=SETTINGS)
                self._had = bool(await self._connection.fetchval(HAVE if self._had else TRY, self._key))
                return self._had
        except (*LOST, asyncpg.PostgresError) as error:
            log.info("the lock's session is given up: %s: %s", type(error).__name__, error)
            self.give_up()
            return False

    def give_up(self) -> None:
        """Without a word: the server notices."""
        connection, self._connection, self._had = self._connection, None, False
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Free it now, so that a successor need not wait."""
        connection, self._connection, self._had = self._connection, None, False
        if connection is None:
            return
        try:
            await connection.close(timeout=1.0)
        except (*LOST, asyncpg.PostgresError):
            connection.terminate()
