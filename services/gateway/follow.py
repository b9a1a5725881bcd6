"""The read side: folds the log into views, then keeps them fresh.

Live events come by the bus; whatever is missing or late there is read from the log, which is asked for its head every
second in any case. Positions are gap-free, so a hole is seen at once. Nothing is lost when the bus loses everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from libs.common.bus import Bus, BusError, Feed
from libs.common.log import EventLog, Fenced, Head, LogError
from libs.common.messages import Recorded, decode_delivered, tag_of
from libs.common.registry import TooNew
from proto.compute import VmStartFailed
from services.gateway import snapshot
from services.gateway.model import ReadModel

_log = logging.getLogger(__name__)

READ_MAX = 1000
RECENT_MAX = 4096
"""latest events kept in memory, for live streams"""
POLL_S = 1.0
SNAPSHOT_EVERY = 10_000
"""events between two snapshots; a start folds at most so many, and those of the last seconds"""
FETCH_MAX = 256
FETCH_S = 5.0
AGAIN_S = 1.0
"""the wait before the bus or the log is tried again"""

START_FAILED = tag_of(VmStartFailed)


class Follower:
    """Keeps a ReadModel at the end of the log. `open` folds all there is, `close` ends the following."""

    def __init__(self, log: EventLog, bus: Bus) -> None:
        self.log = log
        self.bus = bus
        self.model = ReadModel()
        self.recent: deque[Recorded] = deque(maxlen=RECENT_MAX)
        self.head = Head(0, 0, 0)
        self.on_image: Callable[[str], None] = lambda name: None
        """called with an image's name after each event about it"""
        self.ending = asyncio.Event()
        """set when the process is about to stop: what lasts is to end itself"""
        self.fenced: Fenced | None = None
        self.on_fenced: Callable[[], None] = lambda: None
        """called once `fenced` says that the log was restored: these views are of the past, the process is to end"""
        self._snapped = 0
        self._moved = asyncio.Event()
        self._reading = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def position(self) -> int:
        return self.model.position

    async def open(self) -> None:
        """Fold the log, from a snapshot on where there is one. Raises LogError: without the log there is nothing to show."""
        self.head = await self.log.head()
        kept = snapshot.restore(await self.log.load_snapshot(snapshot.NAME), self.head.position)
        self.model = kept or self.model
        self._snapped = self.position
        async for chunk in self.log.replay(self.position):
            self._apply(chunk)
        await self._snap()
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._poll())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self) -> None:
        """Let everything that lasts end itself."""
        self.ending.set()
        self._moved.set()

    def nudge(self) -> None:
        """Let all who wait in `moved` look again."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def catch_up(self) -> None:
        """Apply all that the log holds by now. Raises LogError."""
        async with self._reading:
            while chunk := await self.log.read_all(self.position, READ_MAX):
                self._apply(await self._whole(chunk))

    async def reach(self, position: int, timeout_s: float) -> bool:
        """Wait until the views hold what lies at a position; the log is asked at once, not when the bus tells."""
        if position <= self.position:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                while position > self.position:
                    moved = self._moved
                    await self.catch_up()
                    if position > self.position:
                        await moved.wait()
        except (TimeoutError, LogError):
            return position <= self.position
        return True

    async def moved(self, after: int, timeout_s: float, woken: asyncio.Event | None = None) -> bool:
        """Wait until the views are past a position, `ending`, or `woken` (and `nudge`); False at the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.position <= after and not self.ending.is_set() and not (woken and woken.is_set()):
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def since(self, after: int, limit: int) -> list[Recorded]:
        """Events past a position, from memory where they are recent, else from the log. Raises LogError."""
        if self.recent and self.recent[0].position <= after + 1:
            skip = after + 1 - self.recent[0].position
            return [self.recent[i] for i in range(skip, min(skip + limit, len(self.recent)))]
        rows = await self.log.read_all(after, limit)
        return [row for row in rows if row.position <= self.position]

    def _apply(self, records: Iterable[Recorded]) -> None:
        """Events that were applied before are skipped; raises ValueError for a hole, LogError for what only later code
        reads."""
        before = self.position
        for recorded in records:
            if recorded.position > self.position:
                try:
                    self.model.apply(recorded)
                except TooNew as error:
                    raise LogError(f"{error}. Run the release that wrote it, or a later one") from error
                self.recent.append(recorded)
                if recorded.stream.startswith("image-"):
                    self.on_image(recorded.stream.removeprefix("image-"))
        if self.position > before:
            self.nudge()

    async def _snap(self) -> None:
        """Save a snapshot where it is time for one; a start without it only takes longer."""
        if self.position - self._snapped < SNAPSHOT_EVERY:
            return
        taken = snapshot.take(self.model)
        try:
            await self.log.save_snapshot(taken)
            self._snapped = taken.position
        except LogError as error:
            _log.warning("no snapshot just now: %s", error)

    async def _hear(self) -> None:
        feed: Feed | None = None
        while True:
            try:
                feed = feed or await self.bus.feed("", subject="evt.>", new_only=True)
                heard = [decode_delivered(data) for data in await feed.fetch(FETCH_MAX, FETCH_S)]
                await feed.ack()
                await self._take([d.event for d in heard if d.incarnation == self.head.incarnation])
            except (BusError, LogError) as error:
                _log.warning("live events pause: %s", error)
                feed = None if isinstance(error, BusError) else feed
                await asyncio.sleep(AGAIN_S)

    async def _take(self, heard: list[Recorded]) -> None:
        fresh = sorted((r for r in heard if r.position > self.position), key=lambda r: r.position)
        if fresh and [r.position for r in fresh] == list(range(self.position + 1, self.position + 1 + len(fresh))):
            async with self._reading:
                self._apply(await self._whole(fresh))
        elif fresh:
            await self.catch_up()

    async def _whole(self, records: list[Recorded]) -> list[Recorded]:
        """A failed start and the next attempt are one decision: never show the first without the second."""
        if records[-1].type != START_FAILED:
            return records
        return records + await self.log.read_all(records[-1].position, 1)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                self.head = await self.log.head()
                if self.head.position > self.position:
                    await self.catch_up()
                await self._snap()
            except Fenced as error:
                _log.error("the gateway ends: %s", error)
                self.fenced = error
                self.end()
                self.on_fenced()
                return
            except LogError as error:
                _log.warning("the log cannot be read: %s", error)
