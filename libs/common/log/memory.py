"""The log's twin in memory: the same laws, one thread, no waiting. For tests and for the deterministic world.

The methods that end in `_now` do the work at once and may be called by a simulator without an event loop; the
coroutines of the contract wrap them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from libs.common.log import (
    Appended,
    Conflict,
    Duplicate,
    Eventless,
    Fenced,
    Group,
    Head,
    LogError,
    Snapshot,
    Unavailable,
    Unit,
)
from libs.common.log.checks import check_group, reached
from libs.common.messages import Recorded

CHUNK_EVENTS = 2048


class KeptCommand(msgspec.Struct, frozen=True, gc=False):
    """A command row as it lies in the log: its payload beside how it was answered, and the log's head just after."""

    payload: bytes
    answer: Duplicate
    head: int
    stream: str
    at_us: int


class MemoryLog:
    """clock_us: microseconds since the epoch. `available = False` plays a server that is away (Unavailable).
    `promote()` plays a promoted database: whoever opened the log before is fenced. `restored(position)` is one that was restored
    from a backup."""

    def __init__(self, clock_us: Callable[[], int], incarnation: int = 1) -> None:
        self._clock_us = clock_us
        self._incarnation = self._known_incarnation = incarnation
        self._at_us = 0
        self._events: list[Recorded] = []
        self._streams: dict[str, list[Recorded]] = {}
        self._commands: dict[str, KeptCommand] = {}
        self._consumers: dict[str, int] = {}
        self._commits: list[tuple[int, str, int]] = []
        """(head just after, consumer, its position) of every commit"""
        self._snapshots: dict[str, Snapshot] = {}
        self._waiters: set[asyncio.Event] = set()
        self.available = True

    # --- at once ---

    def append_now(self, group: Group) -> Appended:
        """See EventLog.append. Raises Unavailable, Fenced, ValueError (nothing was written)."""
        check_group(group)
        self._check()
        at_us = max(self._clock_us(), self._at_us)
        positions: list[int] = []
        stopped: Conflict | Duplicate | None = None
        for unit in group.units:
            stopped = self._obstacle(unit)
            if stopped is not None:
                break
            positions.append(self._write(unit, at_us))
        self._at_us = at_us
        self._move(group, len(positions))
        self._commits.append((len(self._events), group.consumer, self._consumers.get(group.consumer, 0)))
        for event in self._waiters:
            event.set()
        return Appended(tuple(positions), at_us, stopped)

    def head_now(self) -> Head:
        self._check()
        return Head(len(self._events), self._incarnation, self._at_us)

    def read_stream_now(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        self._check()
        return self._streams.get(stream, [])[max(after, 0) :][:limit]

    def read_all_now(self, after: int, limit: int = 1000) -> list[Recorded]:
        self._check()
        start = max(after, 0)
        return self._events[start : start + limit]

    def command_now(self, id: str) -> Duplicate | None:
        self._check()
        kept = self._commands.get(id)
        return None if kept is None else kept.answer

    def commands_now(self) -> Mapping[str, KeptCommand]:
        """All of them by id, in the order in which they were written."""
        self._check()
        return self._commands

    def consumer_position_now(self, consumer: str) -> int:
        self._check()
        return self._consumers.get(consumer, 0)

    def save_snapshot_now(self, snapshot: Snapshot) -> None:
        self._check()
        known = self._snapshots.get(snapshot.name)
        if known is None or known.position <= snapshot.position:
            self._snapshots[snapshot.name] = snapshot

    def load_snapshot_now(self, name: str) -> Snapshot | None:
        self._check()
        return self._snapshots.get(name)

    def promote(self) -> None:
        """The database was restored or promoted: its incarnation rises."""
        self._incarnation += 1

    def reopen(self) -> None:
        """What a process does after Fenced: start over with the incarnation that is there now."""
        self._known_incarnation = self._incarnation

    def restored(self, position: int) -> MemoryLog:
        """A database restored from a backup of the last commit at or before that position, with the next incarnation. This one is
        as it was, and of no use any more."""
        commits = [c for c in self._commits if c[0] <= position]
        head = max((c[0] for c in commits), default=0)
        log = MemoryLog(self._clock_us, self._incarnation + 1)
        log._events, log._commits = self._events[:head], commits
        for recorded in log._events:
            log._streams.setdefault(recorded.stream, []).append(recorded)
            log._at_us = recorded.at_us
        log._commands = {id: kept for id, kept in self._commands.items() if kept.head <= head}
        for _, consumer, mark in commits:
            if consumer:
                log._consumers[consumer] = max(mark, log._consumers.get(consumer, 0))
        return log

    @classmethod
    def holding(
        cls, clock_us: Callable[[], int], incarnation: int, events: Sequence[Recorded], consumers: Mapping[str, int],
        commands: Mapping[str, KeptCommand],
    ) -> MemoryLog:  # fmt: skip
        """One that holds already what another has written: its events from the first on, without holes."""
        log = cls(clock_us, incarnation)
        log._events = list(events)
        for recorded in log._events:
            log._streams.setdefault(recorded.stream, []).append(recorded)
        log._at_us = events[-1].at_us if events else 0
        log._consumers, log._commands = dict(consumers), dict(commands)
        log._commits = [(len(log._events), "", 0)]
        return log

    # --- the contract ---

    async def append(self, group: Group) -> Appended:
        return self.append_now(group)

    def submit(self, group: Group, done: Callable[[Appended | LogError], None]) -> None:
        def tell() -> None:
            try:
                done(self.append_now(group))
            except LogError as error:
                done(error)

        asyncio.get_running_loop().call_soon(tell)

    async def head(self) -> Head:
        return self.head_now()

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        return self.read_stream_now(stream, after, limit)

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        return self.read_all_now(after, limit)

    async def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        self._check()
        end = len(self._events) if until is None else min(until, len(self._events))
        for start in range(max(after, 0), end, CHUNK_EVENTS):
            yield self._events[start : min(start + CHUNK_EVENTS, end)]

    async def command(self, id: str) -> Duplicate | None:
        return self.command_now(id)

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        self._check()
        found = [
            Eventless(kept.at_us, id, kept.payload, kept.answer.outcome)
            for id, kept in reversed(self._commands.items())
            if kept.stream == stream and kept.answer.position == 0
        ]
        return found[:limit]

    async def consumer_position(self, consumer: str) -> int:
        return self.consumer_position_now(consumer)

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        self.save_snapshot_now(snapshot)

    async def load_snapshot(self, name: str) -> Snapshot | None:
        return self.load_snapshot_now(name)

    async def wait(self, after: int, timeout_s: float) -> None:
        if len(self._events) > after:
            return
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._events) <= after:
                    event.clear()
                    await event.wait()
        except TimeoutError:
            return
        finally:
            self._waiters.discard(event)

    async def close(self) -> None:
        return None

    # --- inside ---

    def _check(self) -> None:
        if not self.available:
            raise Unavailable("the log is away")
        if self._incarnation != self._known_incarnation:
            raise Fenced(f"the log is at incarnation {self._incarnation}, not {self._known_incarnation}: start over")

    def _obstacle(self, unit: Unit) -> Conflict | Duplicate | None:
        if unit.command is not None and (kept := self._commands.get(unit.command.id)) is not None:
            return kept.answer
        version = len(self._streams.get(unit.stream, ()))
        return None if version == unit.expected else Conflict(unit.stream, version)

    def _write(self, unit: Unit, at_us: int) -> int:
        """Returns the unit's first position, or the head when it has no events."""
        first = len(self._events) + 1
        for version, e in enumerate(unit.events, unit.expected + 1):
            recorded = Recorded(len(self._events) + 1, unit.stream, version, e.type, e.v, at_us, e.data, e.meta)
            self._events.append(recorded)
            self._streams.setdefault(unit.stream, []).append(recorded)
        if unit.command is not None:
            answer = Duplicate(unit.command.outcome, first if unit.events else 0)
            self._commands[unit.command.id] = KeptCommand(
                unit.command.payload, answer, len(self._events), unit.stream, at_us
            )
        return first if unit.events else len(self._events)

    def _move(self, group: Group, committed: int) -> None:
        if group.consumer:
            mark = reached(group, committed)
            if mark > self._consumers.get(group.consumer, 0):
                self._consumers[group.consumer] = mark
