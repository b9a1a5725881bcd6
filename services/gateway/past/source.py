"""What past states are read from: of a log only what reads it. An EventLog is one; a PostgresPast is one that cannot write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from libs.common.log import Eventless, Head
from libs.common.messages import Recorded


class Readable(Protocol):
    """As EventLog has them. All raise LogError."""

    async def head(self) -> Head: ...

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]: ...

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]: ...

    def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]: ...

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]: ...
