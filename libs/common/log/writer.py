"""The group-commit writer: all callers of one process share a few lanes, each with one batch under way.

Groups are taken first come, first served. One that touches a stream, command id or consumer of a group under way, or of one
that had to wait itself, waits for a later batch: so no two batches contradict each other, and callers keep their order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from libs.common.log import Appended, Conflict, Duplicate, Fenced, Group, LogError, Unavailable
from libs.common.log.batch import Batch, keys
from libs.common.log.checks import check_group
from libs.common.log.lane import Lane
from libs.common.log.link import Access

log = logging.getLogger(__name__)

UNITS_MAX = 1024
BYTES_MAX = 8 * 1024 * 1024
WAITING_MAX = 20_000
LOOK_AHEAD_MAX = 4096
SECOND_LANE_MIN = 48
"""Groups waiting before another lane starts a batch while one is under way: small batches would only queue at the head's
lock, and a larger one later is cheaper."""


type Done = Callable[[Appended | LogError], None]


@dataclass(slots=True, eq=False)
class Waiting:
    """A group, how much it is, since when it waits (monotonic seconds), who is to be told, and the future that its caller may
    have given up (None: it never does)."""

    group: Group
    keys: set[str]
    size: int
    since_s: float
    done: Done
    caller: asyncio.Future[Appended] | None


class Writer:
    """`appended(result)` is called after each batch with the last result, so that waiters wake without the database's help."""

    def __init__(
        self, access: Access, now_us: Callable[[], int], appended: Callable[[int], None], lanes: int = 2
    ) -> None:
        self._access = access
        self._appended = appended
        self._queue: deque[Waiting] = deque()
        self._busy: set[str] = set()
        self._under_way = 0
        self._closing = False
        self._work = [asyncio.Event() for _ in range(lanes)]
        self._lanes = [Lane(access, now_us) for _ in range(lanes)]
        self._tasks = [asyncio.create_task(self._run(n), name=f"log-lane-{n}") for n in range(lanes)]

    async def append(self, group: Group) -> Appended:
        """See EventLog.append."""
        result: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.submit(group, partial(_settle, result), result)
        return await result

    def submit(self, group: Group, done: Done, caller: asyncio.Future[Appended] | None = None) -> None:
        """See EventLog.submit."""
        size = check_group(group)
        if self._access.fenced is not None:
            raise self._access.fenced
        if self._closing:
            raise Unavailable("append: the log is closed")
        if len(self._queue) >= WAITING_MAX:
            raise Unavailable(f"append: {WAITING_MAX} groups wait already; ask again later")
        self._queue.append(Waiting(group, keys(group), size, time.monotonic(), done, caller))
        self._wake()

    async def close(self) -> None:
        """Writes what waits, then ends."""
        self._closing = True
        for work in self._work:
            work.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes:
            await lane.close()
        self._fail(list(self._queue), Unavailable("append: the log is closed"))
        self._queue.clear()

    def _wake(self) -> None:
        """One lane at once; the others only where there is enough for a batch of their own."""
        if self._under_way == 0:
            self._work[0].set()
        elif self._under_way < len(self._work) and len(self._queue) >= SECOND_LANE_MIN:
            for work in self._work:
                work.set()

    async def _run(self, number: int) -> None:
        work, lane = self._work[number], self._lanes[number]
        while not (self._closing and not self._queue):
            taken = self._take()
            if not taken:
                work.clear()
                await work.wait()
                continue
            self._under_way += 1
            try:
                await self._write(lane, taken)
            except Exception as bug:  # whoever waits must hear of it, and the lane must go on
                log.exception("appending a batch")
                self._fail(taken, LogError(f"append: {bug!r}"))
            finally:
                self._under_way -= 1
                for waiting in taken:
                    self._busy -= waiting.keys
                self._hand_on(number)

    def _hand_on(self, number: int) -> None:
        """This lane looks for itself; others are woken, as what they could not take may be free now."""
        for other, work in enumerate(self._work):
            if other != number and (self._closing or len(self._queue) >= SECOND_LANE_MIN):
                work.set()

    def _take(self) -> list[Waiting]:
        """The next batch: what fits and clashes with nothing under way."""
        if self._under_way and len(self._queue) < SECOND_LANE_MIN and not self._closing:
            return []
        taken: list[Waiting] = []
        passed: list[Waiting] = []
        blocked = self._busy.copy()
        units = size = 0
        while self._queue and units < UNITS_MAX and size < BYTES_MAX and len(passed) < LOOK_AHEAD_MAX:
            waiting = self._queue.popleft()
            if waiting.caller is not None and waiting.caller.done():  # its caller is gone
                continue
            if not blocked.isdisjoint(waiting.keys):
                passed.append(waiting)
            elif taken and size + waiting.size > BYTES_MAX:
                self._queue.appendleft(waiting)
                break
            else:
                taken.append(waiting)
                units += len(waiting.group.units) or 1
                size += waiting.size
            blocked |= waiting.keys
        self._queue.extendleft(reversed(passed))
        self._access.counters.deferred += len(passed)
        for waiting in taken:
            self._busy |= waiting.keys
        return taken

    async def _write(self, lane: Lane, taken: Sequence[Waiting]) -> None:
        batch = Batch()
        for waiting in taken:
            batch.add(waiting.group)
        try:
            results = await lane.append(batch)
        except (Unavailable, Fenced) as error:
            self._fail(taken, error)
            self._fail_late(error)
        except LogError as error:
            if len(taken) == 1:
                self._fail(taken, error)
                return
            for waiting in taken:  # the server refused the batch: the one that is to blame must not harm the others
                await self._write(lane, [waiting])
        else:
            self._answer(taken, results)

    def _answer(self, taken: Sequence[Waiting], results: Sequence[Appended]) -> None:
        counters = self._access.counters
        counters.batches += 1
        last = 0
        for waiting, result in zip(taken, results, strict=True):
            counters.units += len(result.positions)
            if result.stopped is not None:
                counters.conflicts += isinstance(result.stopped, Conflict)
                counters.duplicates += isinstance(result.stopped, Duplicate)
            if result.positions:
                last = max(last, result.positions[-1])
            _tell(waiting, result)
        self._appended(last)

    def _fail_late(self, error: LogError) -> None:
        """Whoever waited long enough already is told as well; a fenced log is no use to anybody."""
        now = time.monotonic()
        wait_s_max = self._access.wait_s_max
        late = [w for w in self._queue if isinstance(error, Fenced) or now - w.since_s >= wait_s_max]
        gone = set(map(id, late))
        self._queue = deque(w for w in self._queue if id(w) not in gone)
        self._fail(late, error if isinstance(error, Fenced) else Unavailable("append: the database is away; ask again"))

    @staticmethod
    def _fail(waitings: Sequence[Waiting], error: LogError) -> None:
        for waiting in waitings:
            own = type(error)(*error.args)  # an exception raised in many tasks would gather all their tracebacks
            own.__cause__ = error
            _tell(waiting, own)


def _tell(waiting: Waiting, outcome: Appended | LogError) -> None:
    try:
        waiting.done(outcome)
    except Exception:  # one caller's bug must not keep the others from hearing
        log.exception("telling a caller what became of its append")


def _settle(result: asyncio.Future[Appended], outcome: Appended | LogError) -> None:
    if result.done():
        return
    if isinstance(outcome, LogError):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)
