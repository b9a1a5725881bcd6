"""A driver's stream of changes: bounded, in order, with an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.node.drivers import MachineChanged

CHANGES_MAX = 10_000


class Changes:
    """`put` never waits: with CHANGES_MAX unread ones the oldest is dropped (the reader learns the truth at its next `open`)."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[MachineChanged | None] = asyncio.Queue()
        self.dropped = 0

    def put(self, change: MachineChanged) -> None:
        if self._queue.qsize() >= CHANGES_MAX:
            self._queue.get_nowait()
            self.dropped += 1
        self._queue.put_nowait(change)

    def end(self) -> None:
        """Whoever reads comes to an end, after what is still unread."""
        self._queue.put_nowait(None)

    async def stream(self) -> AsyncIterator[MachineChanged]:
        while (change := await self._queue.get()) is not None:
            yield change
        self._queue.put_nowait(None)  # a second reader ends as well
