"""Connections to the log's database: what counts as "away", how long to try again, and the check of the incarnation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from libs.common.log import Fenced, LogError, Unavailable

type Connection = asyncpg.Connection[asyncpg.Record]

CHANNEL = "asv_log"
WAIT_S_MAX = 5.0
BACKOFF_S_MIN = 0.02
BACKOFF_S_MAX = 0.5
FENCED_STATE = "AS001"

LOST = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""The connection is gone, or its server is ending: what was under way may have been done or not."""

ROLLED_BACK = ("53", "40", "55P03", "57014", "58", "25006")
"""States (or classes of them) after which nothing was written and a later try may do: no space, no memory, deadlock, lock
not had in time, cancelled, input/output error, read-only."""


@dataclass(slots=True)
class Counters:
    """What happened since the log was opened, for metrics."""

    batches: int = 0
    units: int = 0
    conflicts: int = 0
    duplicates: int = 0
    deferred: int = 0
    lost: int = 0
    reconnects: int = 0
    resolved: int = 0
    in_doubt: int = 0
    notify_missed: int = 0


@dataclass(slots=True)
class Access:
    """How all parts of one log reach its database. `incarnation` 0: not known yet, taken from the first connection.
    `fenced` is set for good by the first connection that sees another incarnation. settings: of each connection."""

    dsn: str
    incarnation: int = 0
    wait_s_max: float = WAIT_S_MAX
    counters: Counters = field(default_factory=Counters)
    fenced: Fenced | None = None
    settings: dict[str, str] = field(default_factory=dict)

    async def connect(self) -> Connection:
        """One try. Raises Fenced, or an error that `is_lost` or a PostgresError."""
        if self.fenced is not None:
            raise self.fenced
        connection = await asyncpg.connect(self.dsn, timeout=self.wait_s_max, server_settings={"jit": "off", **self.settings})
        try:
            self.check(await connection.fetchval("select incarnation from asv.log_head"))
        except BaseException:
            connection.terminate()
            raise
        return connection

    def check(self, incarnation: int) -> None:
        """Raises Fenced when the log is not the one that was opened."""
        if not self.incarnation:
            self.incarnation = incarnation
        if incarnation != self.incarnation:
            self.fenced = Fenced(f"the log is at incarnation {incarnation}, not {self.incarnation}: start over")
            raise self.fenced


def is_lost(error: BaseException) -> bool:
    """The connection is of no more use, and what it was doing is in doubt."""
    return isinstance(error, LOST) and not isinstance(error, asyncpg.QueryCanceledError | asyncpg.DataError)


def is_passing(error: BaseException) -> bool:
    """Nothing was written, and trying again later may succeed."""
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(ROLLED_BACK)


async def patiently[T](what: str, wait_s_max: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """Tries until it works, or for wait_s_max: then Unavailable, whose cause is the last error. Only for what may be done
    twice."""
    end = time.monotonic() + wait_s_max
    pause = BACKOFF_S_MIN
    while True:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(end - time.monotonic(), 0.05)):
                return await attempt()
        except LogError:
            raise
        except (*LOST, asyncpg.PostgresError) as error:
            if not is_lost(error) and not is_passing(error):
                raise LogError(f"{what}: {error}") from error
            if time.monotonic() + pause > end:
                raise Unavailable(f"{what}: the log's database is away ({type(error).__name__}: {error})") from error
        await asyncio.sleep(pause)
        pause = min(pause * 2, BACKOFF_S_MAX)
