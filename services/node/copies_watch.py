"""The copies of a node, told by `tel.<node>.copies` once a second while there are any, and once more when there are none (also by
an agent that begins, for whoever heard the one before it)."""

from __future__ import annotations

import asyncio
import logging

from libs.common.bus import Bus, BusError
from libs.common.clock import Clock
from libs.common.messages import encode
from proto.node import CopiesBeat
from services.node.drivers import Driver, DriverError

log = logging.getLogger(__name__)

BEAT_S = 1.0


class CopiesWatch:
    def __init__(self, node: str, boot_id: str, driver: Driver, bus: Bus, clock: Clock) -> None:
        self._node = node
        self._boot_id = boot_id
        self._driver = driver
        self._bus = bus
        self._clock = clock
        self._told = True
        """there were some when it was told last"""

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(BEAT_S)

    async def look(self) -> None:
        try:
            copies = await self._driver.copies()
        except DriverError as error:
            log.debug("it is not known what is being copied: %s", error)
            return
        if not copies and not self._told:
            return
        beat = CopiesBeat(self._node, self._boot_id, self._clock.now_us(), copies)
        try:
            await self._bus.publish(f"tel.{self._node}.copies", encode(beat))
            self._told = bool(copies)
        except BusError as error:
            log.debug("copies were not told: %s", error)
