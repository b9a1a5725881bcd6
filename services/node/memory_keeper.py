"""The asyncio around MemoryPlan: carries its acts to the driver and its reports to the memory service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from libs.common.clock import Clock
from libs.common.messages import Fact, NodeId, Reply
from proto.memory import ReportMemory
from proto.node import Heard, OrderMemory
from services.node.drivers import Driver, DriverError
from services.node.memory_plan import Act, Divide, Inflate, Limit, MemoryPlan

log = logging.getLogger(__name__)

TURN_S = 0.5
QUIET_TURNS = 10
"""while all is as ordered, balloons are looked at so much less often"""


class MemoryKeeper:
    """tell: sends a fact to the memory service; None: nobody answered."""

    def __init__(
        self, node: NodeId, driver: Driver, clock: Clock, tell: Callable[[Fact], Awaitable[Reply | None]]
    ) -> None:
        self.plan = MemoryPlan(node)
        self._driver = driver
        self._clock = clock
        self._tell = tell
        self._news = asyncio.Event()

    def on_order(self, order: OrderMemory, incarnation: int) -> Heard:
        before = self.plan.order
        heard = self.plan.on_order(order, incarnation)
        if self.plan.order is not before:
            self._news.set()
        return heard

    async def run(self) -> None:
        """Until cancelled."""
        turn = 0
        while True:
            try:
                async with asyncio.timeout(TURN_S):
                    await self._news.wait()
            except TimeoutError:
                turn += 1
            if not self._news.is_set() and self.plan.settled and turn % QUIET_TURNS:
                continue
            self._news.clear()
            try:
                await self._turn()
            except (DriverError, OSError) as error:
                log.warning("memory is not divided as ordered: %s", error)
            except Exception:
                log.exception("a turn of dividing memory failed")

    async def _turn(self) -> None:
        if self.plan.order is None:
            return
        balloons = await self._driver.memory.balloons()
        for act in self.plan.step(balloons, self._clock.now_us()):
            self.plan.done(act, await self._do(act))
        report = self.plan.report(self._clock.now_us())
        if report is not None:
            await self._report(report)

    async def _report(self, report: ReportMemory) -> None:
        reply = await self._tell(report)
        if reply is not None and reply.status != "unavailable":
            self.plan.heard(report, self._clock.now_us())

    async def _do(self, act: Act) -> list[str]:
        """What could not be done."""
        memory = self._driver.memory
        try:
            match act:
                case Divide(areas):
                    return await memory.divide(areas)
                case Limit(vm, high_mib, swap_max_mib, merge):
                    return await memory.limit(vm, high_mib, swap_max_mib, merge)
                case Inflate(vm, mib):
                    await memory.inflate(vm, mib)
                    return []
        except (DriverError, OSError) as error:
            return [str(error) or type(error).__name__]
