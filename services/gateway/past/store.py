"""Where kept snapshots lie: the contract, and its twin in memory. Both keep tests/contract/test_kept.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from libs.common.log import Snapshot


class KeptStore(Protocol):
    """Snapshots by position; one there is enough. Raises Unavailable."""

    async def keep(self, snapshot: Snapshot) -> None:
        """In place of one of other code at that position."""
        ...

    async def nearest(self, position: int, schema: str) -> Snapshot | None:
        """The last one at or before a position that code of this schema made."""
        ...

    async def positions(self, schema: str) -> list[int]:
        """Of those of that schema, in order."""
        ...

    async def drop(self, positions: Iterable[int]) -> None: ...

    async def drop_others(self, schema: str) -> None:
        """All that other code made."""
        ...


class MemoryKept:
    def __init__(self) -> None:
        self._all: dict[int, Snapshot] = {}

    async def keep(self, snapshot: Snapshot) -> None:
        self._all[snapshot.position] = snapshot

    async def nearest(self, position: int, schema: str) -> Snapshot | None:
        there = [at for at in await self.positions(schema) if at <= position]
        return self._all[there[-1]] if there else None

    async def positions(self, schema: str) -> list[int]:
        return sorted(at for at, one in self._all.items() if one.schema == schema)

    async def drop(self, positions: Iterable[int]) -> None:
        for position in positions:
            self._all.pop(position, None)

    async def drop_others(self, schema: str) -> None:
        self._all = {at: one for at, one in self._all.items() if one.schema == schema}
