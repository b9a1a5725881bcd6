"""One connection that appends batches, and finds out what became of one when the connection broke under it.

The connection holds an advisory lock that belongs to this lane. Whoever reconnects waits for it, and so for the end of
everything the old connection was doing: only then can be told what was committed and what never will be.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

import asyncpg

from libs.common.log import Appended, Conflict, Duplicate, Fenced, InDoubt, LogError, Unavailable, Unit
from libs.common.log.batch import Batch
from libs.common.log.digest import event_digest
from libs.common.log.link import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    FENCED_STATE,
    LOST,
    Access,
    Connection,
    is_lost,
    is_passing,
)

FATE = """
select c.payload, c.outcome, c.position, e.hash, e.position, e.at_us, coalesce(h.version, 0)
from unnest($1::text[], $2::int[], $3::text[]) with ordinality as u (stream, version, command, number)
left join asv.commands c on c.id = u.command
left join asv.events e on e.stream = u.stream and e.version = u.version
left join asv.stream_heads h on h.stream = u.stream
order by u.number
"""


class _LostWhileWriting(Exception):
    """The connection broke under append_batch: what it wrote is to be found out."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Lane:
    """`now_us`: the writer's clock. Errors of `append`: Unavailable, InDoubt, Fenced, LogError (the server said no to this
    very batch: nothing was written)."""

    def __init__(self, access: Access, now_us: Callable[[], int]) -> None:
        self._access = access
        self._now_us = now_us
        self._lock = secrets.randbits(62)
        self._connection: Connection | None = None
        self._prepared: dict[str, Any] = {}
        """the statements of this connection, by their text"""

    async def append(self, batch: Batch) -> list[Appended]:
        end = time.monotonic() + self._access.wait_s_max
        pause, doubt = BACKOFF_S_MIN, False
        while True:
            try:
                connection = self._connection or await self._connect(end)
                if doubt and (known := await self._fate(connection, batch)) is not None:
                    self._access.counters.resolved += 1
                    return known
                doubt = False
                return batch.results(batch.outcome(await self._call(connection, batch, end)))
            except _LostWhileWriting as lost:
                doubt = True
                self._give_up(lost.error, doubt, time.monotonic() + pause > end)
            except (*LOST, asyncpg.PostgresError) as error:
                self._give_up(error, doubt, time.monotonic() + pause > end)
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_S_MAX)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(timeout=1)

    async def _call(self, connection: Connection, batch: Batch, end: float) -> Any:
        query, values = batch.call(self._access.incarnation, self._now_us())
        try:
            statement = self._prepared.get(query)
            if statement is None:
                statement = self._prepared[query] = await connection.prepare(query, timeout=_left(end))
            return await statement.fetchrow(*values, timeout=_left(end))
        except LOST as error:
            if is_lost(error):
                raise _LostWhileWriting(error) from error
            raise

    def _give_up(self, error: BaseException, doubt: bool, late: bool) -> None:
        """Raises unless another try is due."""
        if getattr(error, "sqlstate", None) == FENCED_STATE:
            self._access.fenced = Fenced(f"{error}: start over")
            raise self._access.fenced from error
        if is_lost(error):
            self._access.counters.lost += 1
            self._drop()
        late = late or not (is_lost(error) or is_passing(error))
        if late and doubt:
            self._access.counters.in_doubt += 1
            raise InDoubt(f"append: the database was lost while it wrote ({error}); ask again") from error
        if not is_lost(error) and not is_passing(error):
            raise LogError(f"append: {type(error).__name__}: {error}") from error
        if late:
            raise Unavailable(f"append: the database is away ({type(error).__name__}: {error}); ask again") from error

    async def _connect(self, end: float) -> Connection:
        connection = await self._access.connect()
        try:
            await connection.execute("select pg_advisory_lock($1)", self._lock, timeout=_left(end))
        except BaseException:
            connection.terminate()
            raise
        self._access.counters.reconnects += 1
        self._connection = connection
        return connection

    def _drop(self) -> None:
        self._prepared.clear()
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _fate(self, connection: Connection, batch: Batch) -> list[Appended] | None:
        """What became of a batch whose answer was lost; None: nothing of it is in the log. A batch is one transaction: if
        one unit is in, all are that did not lose."""
        units = batch.units
        rows = await connection.fetch(
            FATE,
            [unit.stream for unit in units],
            [unit.expected + 1 for unit in units],
            [unit.command.id if unit.command else None for unit in units],
        )
        sent = (index for start, end, _ in batch.bounds for index in range(start, end))
        if not any(_is_in(units[index], rows[index]) for index in sent):
            return None
        results = []
        for start, end, stopped in batch.bounds:
            positions: list[int] = []
            why: Conflict | Duplicate | None = None
            for unit, row in zip(units[start:end], rows[start:end], strict=True):
                if not _is_in(unit, row, or_empty=True):
                    why = Conflict(unit.stream, row[6]) if row[1] is None else Duplicate(row[1], row[2])
                    break
                positions.append(row[4] or 0)
            at_us = max((row[5] or 0 for row in rows[start:end]), default=0)
            if why is None and stopped is not None:
                why = batch.own_fault(stopped, start, positions, None)
            results.append(Appended(tuple(positions), at_us, why))
        return results


def _is_in(unit: Unit, row: Any, *, or_empty: bool = False) -> bool:
    """The log holds just this unit. One that writes nothing leaves no trace: `or_empty` counts it as in."""
    payload, outcome, _, digest, *_ = row
    if unit.command is not None and (payload != unit.command.payload or outcome != unit.command.outcome):
        return False
    if unit.events:
        return bool(digest == event_digest(unit.stream, unit.expected + 1, unit.events[0]))
    return unit.command is not None or or_empty


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.05)
