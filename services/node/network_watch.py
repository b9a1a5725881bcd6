"""The host's bridges and their ways out change while the agent runs: what the node says of itself follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from proto.networks import Bridge
from services.node.drivers import Driver, DriverError

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""A bond whose member comes and goes is told of no more often than that."""


class NetworkWatch:
    """renew: called when they are others than before; False: nobody heard, it is to be called again."""

    def __init__(self, driver: Driver, renew: Callable[[], Awaitable[bool]]) -> None:
        self._driver = driver
        self._renew = renew
        self._told: tuple[Bridge, ...] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look_often())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Once. Raises DriverError, OSError."""
        found = await self._driver.bridges()
        if found != self._told and await self._renew():
            self._told = found

    async def _look_often(self) -> None:
        while True:
            try:
                await self.look()
            except (DriverError, OSError) as error:
                log.debug("bridges: %s", error)
            except Exception:
                log.exception("a look at the bridges failed")
            await asyncio.sleep(LOOK_S)
