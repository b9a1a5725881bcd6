"""The pools of a node: told by `tel.<node>.pools` every BEAT_S, and looked at once a second while a VM waits for room in one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec.structs import replace

from libs.common.bus import Bus, BusError
from libs.common.clock import Clock
from libs.common.messages import encode
from proto.pools import BEAT_S, PoolsBeat
from proto.space import FileNow, PoolNow
from services.node.drivers import Driver, DriverError
from services.node.effects import NodeEffect
from services.node.model import Agent

log = logging.getLogger(__name__)

LOOK_S = 1.0
POOLS_MAX = 64
FILES_TOLD_MAX = 2000
"""of all pools together: a message has a bound"""


class PoolWatch:
    """do: what the agent wants done."""

    def __init__(
        self, node: str, boot_id: str, driver: Driver, agent: Agent, bus: Bus, clock: Clock, do: Callable[[list[NodeEffect]], None]
    ) -> None:
        self._node = node
        self._boot_id = boot_id
        self._driver = driver
        self._agent = agent
        self._bus = bus
        self._clock = clock
        self._do = do

    async def run(self) -> None:
        next_s = 0.0
        while True:
            if self._clock.monotonic() >= next_s:
                next_s = self._clock.monotonic() + BEAT_S
                await self._tell()
            elif self._agent.short_of_space:
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """The agent knows how they are now."""
        await self._look(files=False)

    async def _look(self, files: bool) -> tuple[PoolNow, ...]:
        try:
            pools = await self._driver.pools(files)
        except (DriverError, OSError) as error:
            log.warning("the pools cannot be looked at: %s", error)
            return ()
        self._do(self._agent.on_pools(pools, self._clock.now_us()))
        return pools

    async def _tell(self) -> None:
        told = bounded(await self._look(files=True))
        beat = PoolsBeat(self._node, self._boot_id, self._clock.now_us(), told)
        try:
            await self._bus.publish(f"tel.{self._node}.pools", encode(beat))
        except BusError as error:
            log.debug("the pools were not told: %s", error)


def bounded(pools: tuple[PoolNow, ...]) -> tuple[PoolNow, ...]:
    """As many as a message may hold: each pool keeps its largest files."""
    room = FILES_TOLD_MAX // max(1, min(len(pools), POOLS_MAX))

    def largest(files: tuple[FileNow, ...]) -> tuple[FileNow, ...]:
        return tuple(sorted(files, key=lambda file: (-file.used_mib, file.file))[:room])

    return tuple(replace(pool, files=largest(pool.files)) for pool in pools[:POOLS_MAX])
