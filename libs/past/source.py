"""Where a past log is read from: the contract of a database's, a file's and the one in memory (tests/contract/test_past.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from libs.common.log import Eventless, Head
from libs.common.messages import Recorded


class Decided(msgspec.Struct, frozen=True, gc=False):
    """A recorded command: the position of its first event (0: it wrote none), when that was written, its id and stream, the
    Envelope with the enriched command, and the Reply without position (msgpack)."""

    position: int
    at_us: int
    id: str
    stream: str
    payload: bytes
    outcome: bytes


class Past(Protocol):
    """A log that is read only. All methods raise LogError: Unavailable where it cannot be had just now."""

    async def head(self) -> Head: ...

    def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        """Events with after < position <= until in chunks, without holes."""
        ...

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        """Events of one stream with version > after, in order, at most `limit`."""
        ...

    def commands(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Decided]]:
        """Recorded commands whose first event is there, after < position <= until, in order, in chunks."""
        ...

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        """Commands to one stream that wrote no event, the newest first, at most `limit`."""
        ...

    async def position_at(self, at_us: int) -> int:
        """The last position that was written at that time or before; 0: none was."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Sliced(Protocol):
    """What may be a slice: the streams that are there are there from their beginnings, and positions have holes."""

    @property
    def whole(self) -> bool: ...


@runtime_checkable
class Answers(Protocol):
    """What a past may give beside its events' commands: those that wrote nothing, as they were refused or nothing had to change."""

    def unwritten(self, after_us: int = 0) -> AsyncIterator[Sequence[Decided]]:
        """Recorded commands without an event (position 0), of a time behind after_us, in the order of their times, in chunks."""
        ...
