"""The in-memory bus: the twin of the NATS bus for tests and for the deterministic world.

All clients of one `Hub` hear each other. With a `Grant` (permissions.py) a client is held to its subjects as the server would
hold it. What needs no loop is synchronous on the hub (`store`, `take`), so that the world can step it by hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Sequence

from libs.common.bus import BusTimeout, Disconnected, Feed, Forbidden, Handler, NoResponder, Published
from libs.common.bus.permissions import Grant, matches

_log = logging.getLogger(__name__)

EVENTS_MAX = 1_000_000
IDS_MAX = 1_000_000


class Message:
    """What a handler gets. The first answer counts, later ones go nowhere."""

    __slots__ = ("_answer", "data", "headers", "subject")

    def __init__(
        self, subject: str, data: bytes, headers: dict[str, str], answer: asyncio.Future[bytes] | None = None
    ) -> None:
        self.subject = subject
        self.data = data
        self.headers = headers
        self._answer = answer

    async def respond(self, data: bytes) -> None:
        self.respond_now(data)

    def respond_now(self, data: bytes) -> bool:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(data)
        return True


class _Listener:
    __slots__ = ("bus", "handler", "queue", "subject")

    def __init__(self, bus: MemoryBus, subject: str, handler: Handler, queue: str) -> None:
        self.bus = bus
        self.subject = subject
        self.handler = handler
        self.queue = queue


class _Cursor:
    """A durable reader: `acked` is the index of the next event that was not dealt with, `next` of the next one to give."""

    __slots__ = ("acked", "next", "subject")

    def __init__(self, subject: str, start: int) -> None:
        self.subject = subject
        self.acked = start
        self.next = start


class Hub:
    """What the server would be: who listens, and the stored events (at most `events_max`, the oldest go first)."""

    def __init__(self, *, events_max: int = EVENTS_MAX, ids_max: int = IDS_MAX) -> None:
        self.listeners: list[_Listener] = []
        self.up = True
        self._events: deque[tuple[str, bytes]] = deque()
        self._first = 0
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._events_max = events_max
        self._ids_max = ids_max
        self._cursors: dict[str, _Cursor] = {}
        self._turns: dict[str, int] = {}
        self._more = asyncio.Event()

    def store(self, events: Sequence[Published]) -> int:
        """Keep the events whose ids are new, in order; returns how many those were."""
        kept = 0
        for event in events:
            if event.id in self._ids:
                continue
            self._ids[event.id] = None
            if len(self._ids) > self._ids_max:
                self._ids.popitem(last=False)
            self._events.append((event.subject, event.data))
            if len(self._events) > self._events_max:
                self._events.popleft()
                self._first += 1
            kept += 1
        self._more.set()
        return kept

    def cursor(self, name: str, subject: str, new_only: bool) -> _Cursor:
        """The reader's place; what it fetched but did not acknowledge comes again."""
        end = self._first + len(self._events)
        found = self._cursors.get(name) if name else None
        if found is None:
            found = _Cursor(subject, end if new_only else self._first)
            if name:
                self._cursors[name] = found
        found.subject = subject
        found.next = found.acked
        return found

    def take(self, cursor: _Cursor, max_messages: int) -> list[bytes]:
        """The next events of that reader, at most max_messages."""
        taken: list[bytes] = []
        cursor.next = max(cursor.next, self._first)
        end = self._first + len(self._events)
        while cursor.next < end and len(taken) < max_messages:
            subject, data = self._events[cursor.next - self._first]
            cursor.next += 1
            if matches(cursor.subject, subject):
                taken.append(data)
        return taken

    async def more(self, timeout_s: float) -> None:
        """Returns when something was stored, or at the timeout."""
        self._more.clear()
        try:
            await asyncio.wait_for(self._more.wait(), timeout_s)
        except TimeoutError:
            pass

    def hearers(self, subject: str) -> list[_Listener]:
        """Everyone who listens, and of each queue group one, in turn."""
        groups: dict[tuple[str, str], list[_Listener]] = {}
        chosen: list[_Listener] = []
        for listener in self.listeners:
            if not matches(listener.subject, subject):
                continue
            if listener.queue:
                groups.setdefault((listener.subject, listener.queue), []).append(listener)
            else:
                chosen.append(listener)
        for (pattern, queue), group in sorted(groups.items()):
            turn = self._turns.get(queue + pattern, 0)
            self._turns[queue + pattern] = turn + 1
            chosen.append(group[turn % len(group)])
        return chosen


class MemoryFeed:
    """A reader of the stored events."""

    def __init__(self, hub: Hub, cursor: _Cursor) -> None:
        self._hub = hub
        self._cursor = cursor

    async def fetch(self, max_messages: int, timeout_s: float) -> list[bytes]:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while True:
            taken = self._hub.take(self._cursor, max_messages)
            left = end - loop.time()
            if taken or left <= 0:
                return taken
            await self._hub.more(left)

    async def ack(self) -> None:
        self._cursor.acked = self._cursor.next

    async def close(self) -> None:
        return None


class MemoryBus:
    """A client of a hub. `MemoryBus()` alone has a hub of its own (`bus.hub`)."""

    def __init__(self, hub: Hub | None = None, *, name: str = "memory", grant: Grant | None = None) -> None:
        self.hub = Hub() if hub is None else hub
        self.name = name
        self._grant = grant
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float = 5.0, headers: dict[str, str] | None = None
    ) -> bytes:
        self._check_publish(subject)
        hearers = self.hub.hearers(subject)
        if not hearers:
            raise NoResponder(f"nobody serves {subject}")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        for listener in hearers:
            listener.bus._spawn(listener.handler, Message(subject, data, headers or {}, answer))
        try:
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            raise BusTimeout(f"no answer from {subject} within {timeout_s} s") from None

    async def serve(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        if self._grant is not None and not self._grant.may_subscribe(subject):
            raise Forbidden(f"{self.name} may not hear {subject}")
        self._check_open()
        self.hub.listeners.append(_Listener(self, subject, handler, queue))

    async def publish(self, subject: str, data: bytes) -> None:
        self._check_publish(subject)
        for listener in self.hub.hearers(subject):
            listener.bus._spawn(listener.handler, Message(subject, data, {}))

    async def publish_events(self, events: Sequence[Published]) -> None:
        for event in events:
            self._check_publish(event.subject)
        self.hub.store(events)

    async def feed(self, durable: str, *, subject: str = "evt.>", new_only: bool = False) -> Feed:
        self._check_open()
        if self._grant is not None and not self._grant.reads_events:
            raise Forbidden(f"{self.name} may not read the published events")
        return MemoryFeed(self.hub, self.hub.cursor(durable, subject, new_only))

    async def drain(self) -> None:
        self.hub.listeners = [one for one in self.hub.listeners if one.bus is not self]
        while tasks := list(self._tasks):
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)  # gathering what has ended takes no turn of the loop
        self._closed = True

    def _check_open(self) -> None:
        if self._closed or not self.hub.up:
            raise Disconnected("the bus is closed" if self._closed else "the hub is down")

    def _check_publish(self, subject: str) -> None:
        self._check_open()
        if self._grant is not None and not self._grant.may_publish(subject):
            raise Forbidden(f"{self.name} may not publish to {subject}")

    def _spawn(self, handler: Handler, message: Message) -> None:
        task = asyncio.get_running_loop().create_task(_handled(handler, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _handled(handler: Handler, message: Message) -> None:
    try:
        work = handler(message)
        if work is not None:
            await work
    except Exception:
        _log.exception("handler of %s failed", message.subject)
