"""What an agent says of memory by itself: `tel.<node>.memory` once a second, and where its VMs' memory lies (ReportRegions)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from libs.common.bus import Bus, BusError
from libs.common.clock import Clock
from libs.common.messages import Envelope, Fact, NodeId, Reply, decode_reply, encode
from proto.mapping import Region, ReportRegions
from proto.node import MemoryBeat
from services.node.drivers import Driver, DriverError
from services.node.host_size import HostSize
from services.node.maps import Maps

log = logging.getLogger(__name__)

BEAT_S = 1.0
FACT_S_MAX = 2.0


class MemoryWatch:
    """met: the highest incarnation of the log that the agent has met. renew: called when the host has other memory or swap than
    before; False: to be called again."""

    def __init__(
        self, node: NodeId, boot_id: str, driver: Driver, bus: Bus, clock: Clock, met: Callable[[], int],
        renew: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self._node = node
        self._boot_id = boot_id
        self._driver = driver
        self._bus = bus
        self._clock = clock
        self._met = met
        self._renew = renew
        self._swap: tuple[tuple[str, int, str], ...] | None = None
        self._size = HostSize()
        self._maps = Maps()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._every_second(turn)) for turn in (self._beat, self._map)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _every_second(self, turn: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await turn()
            except (DriverError, BusError, OSError) as error:
                log.debug("memory: %s", error)
            except Exception:
                log.exception("a look at memory failed")
            await asyncio.sleep(BEAT_S)

    async def _beat(self) -> None:
        host = await self._driver.memory.host()
        vms = await self._driver.memory.figures()
        beat = MemoryBeat(
            self._node,
            self._boot_id,
            self._clock.now_us(),
            host.total_mib,
            host.available_mib,
            host.swap_total_mib,
            host.swap_free_mib,
            host.psi_some_avg10,
            host.psi_full_avg10,
            host.ksm_saved_mib,
            vms,
            host.areas,
            host.swaps,
        )
        await self._bus.publish(f"tel.{self._node}.memory", encode(beat))
        swap = tuple((s.name, s.size_mib, s.why_not) for s in host.swaps)
        size = host.total_mib if self._size.differs(host.total_mib) else self._size.told_mib
        if (swap != self._swap or size != self._size.told_mib) and await self._renew():
            self._swap, self._size.told_mib = swap, size

    async def _map(self) -> None:
        for vm, generation in self._maps.due(self._driver.memory.vms(), self._clock.now_us()):
            try:
                regions = await self._driver.memory.regions(vm)
            except DriverError as error:
                log.debug("the regions of %s: %s", vm, error)
                self._maps.missed(vm, self._clock.now_us())
                continue
            if self._maps.found(vm, regions, self._clock.now_us()):
                await self._report(vm, generation, regions)

    async def _report(self, vm: str, generation: int, regions: tuple[Region, ...]) -> None:
        fact = ReportRegions(node=self._node, heard=self._met(), vm=vm, generation=generation, regions=regions)
        reply = await self._told(fact)
        if reply is None or reply.status == "unavailable":
            self._maps.lost(vm)
            return
        if reply.status != "accepted":
            log.info("memory does not take the regions of %s: %s", vm, reply.sentence)
        self._maps.heard(vm, regions, self._clock.now_us())

    async def _told(self, fact: Fact) -> Reply | None:
        """None: nobody answered."""
        envelope = Envelope(
            id=self._clock.new_id(),
            data=msgspec.Raw(encode(fact)),
            actor=f"node:{self._node}",
            at_us=self._clock.now_us(),
        )
        try:
            data = await self._bus.request(f"fact.{self._node}.memory", encode(envelope), timeout_s=FACT_S_MAX)
            return decode_reply(data)
        except (BusError, msgspec.MsgspecError) as error:
            log.debug("memory did not hear a fact: %s", error)
            return None
