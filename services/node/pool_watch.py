"""The pools of a node are looked at: often while a VM waits for room in one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from libs.common.clock import Clock
from services.node.drivers import Driver, DriverError
from services.node.effects import NodeEffect
from services.node.model import Agent

log = logging.getLogger(__name__)

LOOK_S = 1.0


class PoolWatch:
    """do: what the agent wants done."""

    def __init__(
        self, driver: Driver, agent: Agent, clock: Clock, do: Callable[[list[NodeEffect]], None]
    ) -> None:
        self._driver = driver
        self._agent = agent
        self._clock = clock
        self._do = do

    async def run(self) -> None:
        while True:
            if self._agent.short_of_space:
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """The agent knows how they are now."""
        try:
            pools = await self._driver.pools()
        except DriverError as error:
            log.warning("the pools cannot be looked at: %s", error)
            return
        self._do(self._agent.on_pools(pools, self._clock.now_us()))
