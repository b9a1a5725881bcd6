"""What runs beside the loop's callbacks: tasks that are kept, and answers that may come to nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from libs.common.bus import BusError

log = logging.getLogger(__name__)


class Tasks:
    """Keeps strong references to what runs, and says so when something of it dies."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name or None)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s died", task.get_name(), exc_info=error)

    async def stop(self) -> None:
        mine = [t for t in self._tasks if t is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)


async def answer(message: Any, data: bytes) -> None:
    """Who asked may be gone, or the bus."""
    try:
        await message.respond(data)
    except BusError as error:
        log.debug("an answer was not taken: %s", error)
