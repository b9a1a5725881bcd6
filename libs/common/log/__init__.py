"""The event log: the contract that the Postgres log and its in-memory twin both keep (tests/contract/test_eventlog.py).

One global, gap-free order of positions from 1; one gap-free order of versions per stream from 1. What is appended is
durable when the call returns. A `Group` is what one caller wants written in order: its longest prefix of units without
a conflict is committed, in one transaction with the others' groups of the same batch; a loser never harms another group.

    LogError
      Unavailable      the server is away or the disk is full: nothing was written; ask again
        InDoubt        it went away while it wrote, and is not back: whether it was written shows when it is; ask again
                       with the same command id, on the version that the stream has by then
      Fenced           this log's incarnation is not the one the caller knew: start over
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from libs.common.messages import Recorded


class LogError(Exception):
    """Something about the log itself, not about what was to be written."""


class Unavailable(LogError):
    """The log could not take or give anything just now; nothing was written, unless it is InDoubt."""


class InDoubt(Unavailable):
    """The server was lost between the question and its answer, and did not come back within wait_s_max: what was to be
    written may be in the log. A repeated command id, or the stream's version, will tell."""


class Fenced(LogError):
    """The log's incarnation changed (restored or promoted database)."""


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to be written: wire name, its version, msgpack of the event, msgpack of its Meta."""

    type: str
    v: int
    data: bytes
    meta: bytes


class CommandRow(msgspec.Struct, frozen=True, gc=False):
    """A decided command, recorded with its events: id, msgpack Envelope, msgpack Reply without position and version."""

    id: str
    payload: bytes
    outcome: bytes


class Unit(msgspec.Struct, frozen=True, gc=False):
    """What one decided command writes: its row (None where it is not kept: a fact or tick that came to nothing), and its events.

    expected  the stream's version that the decision was made on (0: the stream is new). Within a group a later unit on
              the same stream counts the events of the earlier ones.
    mark      the consumer position that holds once this unit and all before it in the group are in; 0: none
    """

    stream: str
    expected: int
    events: tuple[NewEvent, ...]
    command: CommandRow | None = None
    mark: int = 0


class Group(msgspec.Struct, frozen=True, gc=False):
    """Units of one caller, in order. With `consumer`, its stored position moves to the last committed unit's mark, or
    to `mark` when all units were committed (also when there are none); it never moves backwards."""

    units: tuple[Unit, ...]
    consumer: str = ""
    mark: int = 0


class Conflict(msgspec.Struct, frozen=True):
    """The unit at this index lost: its stream is at `version`, not where the unit expected it."""

    stream: str
    version: int


class Duplicate(msgspec.Struct, frozen=True):
    """The unit at this index carries a command id that was decided before: that outcome (msgpack Reply), and the first
    position it wrote (0: it wrote no events)."""

    outcome: bytes
    position: int


class Appended(msgspec.Struct, frozen=True):
    """What became of a group: the first position of each committed unit (the log's head where a unit had no events),
    the writer's time of the batch, and why the next unit was not committed (None: all were)."""

    positions: tuple[int, ...]
    at_us: int
    stopped: Conflict | Duplicate | None = None


class Head(msgspec.Struct, frozen=True):
    """The end of the log. `incarnation` rises when a database was restored or promoted."""

    position: int
    incarnation: int
    at_us: int


class Snapshot(msgspec.Struct, frozen=True):
    """A service's folded state at `position`, as bytes of its own making; `schema` says which code made it."""

    name: str
    position: int
    schema: str
    data: bytes


class Eventless(msgspec.Struct, frozen=True):
    """A command that was decided and wrote no event: refused, or nothing had to change. payload: its Envelope; outcome: its
    Reply."""

    at_us: int
    id: str
    payload: bytes
    outcome: bytes


class EventLog(Protocol):
    """The log. All methods raise `Unavailable` after `wait_s_max` when the server cannot be reached."""

    async def append(self, group: Group) -> Appended: ...

    def submit(self, group: Group, done: Callable[[Appended | LogError], None]) -> None:
        """Like append, without a task: `done` is called once, from the loop, with what became of it. Raises at once what append
        raises before it waits."""
        ...

    async def head(self) -> Head: ...

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        """Events of one stream with version > after, in order, at most `limit`."""
        ...

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        """Events with position > after, in order, at most `limit`."""
        ...

    def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        """The whole log in chunks, as fast as it can be had; bounded memory."""
        ...

    async def command(self, id: str) -> Duplicate | None:
        """How a command id was answered before, if it was."""
        ...

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        """Commands to one stream that wrote no event, the newest first, at most `limit`."""
        ...

    async def consumer_position(self, consumer: str) -> int:
        """0 for a consumer never seen."""
        ...

    async def save_snapshot(self, snapshot: Snapshot) -> None: ...

    async def load_snapshot(self, name: str) -> Snapshot | None:
        """The latest by position."""
        ...

    async def wait(self, after: int, timeout_s: float) -> None:
        """Returns once the head is past `after`, or at the timeout. May return early. Never misses a wake-up."""
        ...

    async def close(self) -> None: ...
