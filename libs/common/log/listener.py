"""Wakes whoever waits for the log to grow: by NOTIFY, by this process's own appends, and by a poll when both are silent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from libs.common.log import LogError
from libs.common.log.link import BACKOFF_S_MAX, BACKOFF_S_MIN, CHANNEL, LOST, Access, Connection

log = logging.getLogger(__name__)

POLL_S_MAX = 1.0


class Listener:
    """`head`: asks the database for the head's position. `seen`: the highest position known to be committed."""

    def __init__(self, access: Access, head: Callable[[], Awaitable[int]]) -> None:
        self._access = access
        self._head = head
        self.seen = 0
        self._waiters: set[asyncio.Event] = set()
        # Held here: a connection that only a local name holds is collected, and NOTIFY ends without a word.
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def saw(self, position: int) -> None:
        if position > self.seen:
            self.seen = position
            for event in self._waiters:
                event.set()

    async def wait(self, after: int, timeout_s: float) -> None:
        """See EventLog.wait."""
        if self.seen > after:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="log-listener")
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            while self.seen <= after and (left := end - loop.time()) > 0:
                event.clear()
                try:
                    async with asyncio.timeout(min(left, POLL_S_MAX)):
                        await event.wait()
                except TimeoutError:
                    await self._poll(after)
        finally:
            self._waiters.discard(event)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            with contextlib.suppress(*LOST):
                await self._connection.close(timeout=1)

    async def _poll(self, after: int) -> None:
        try:
            position = await self._head()
        except LogError as error:
            log.debug("the head cannot be read just now: %s", error)
            return
        if position > after and self.seen <= after:
            self._access.counters.notify_missed += 1
            self.saw(position)

    async def _listen(self) -> None:
        """Keeps a listening connection; after each new one looks at the head, as something may have come in between."""
        pause = BACKOFF_S_MIN
        while self._access.fenced is None:
            try:
                connection = self._connection = await self._access.connect()
                ended = asyncio.Event()
                connection.add_termination_listener(lambda _, ended=ended: ended.set())
                await connection.add_listener(CHANNEL, self._notified)
                self.saw(await connection.fetchval("select position from asv.log_head"))
                pause = BACKOFF_S_MIN
                await ended.wait()
            except (LogError, *LOST, asyncpg.PostgresError) as error:
                log.debug("not listening: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_S_MAX)

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self.saw(int(str(payload)))
