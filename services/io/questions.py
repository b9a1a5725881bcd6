"""What io asks of agents beside its log: a look every so often at whose turn it is, and one question at a time to each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

log = logging.getLogger(__name__)

LOOK_S = 0.25


class Questions:
    """look: begins what is to be asked now. busy: whom a question goes to, by name."""

    def __init__(self, name: str, look: Callable[[], None]) -> None:
        self.busy: dict[str, asyncio.Task[None]] = {}
        self._name, self._look = name, look
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        tasks = [task for task in (self._task, *self.busy.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def ask(self, whom: str, question: Coroutine[Any, Any, None]) -> None:
        """Nobody waits for it; `whom` is busy until it is over."""
        task = asyncio.get_running_loop().create_task(question, name=f"{self._name} {whom}")
        self.busy[whom] = task
        task.add_done_callback(partial(self._done, whom))

    async def _run(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    def _done(self, whom: str, task: asyncio.Task[None]) -> None:
        self.busy.pop(whom, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug in asking %s", whom, exc_info=error)
