"""A service whose clock is two hours late goes by the log's time: from its start, and as it follows (libs/common/steady.py)."""

from __future__ import annotations

import asyncio

from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import ManualClock
from libs.common.host.driver import Runner
from libs.common.log.memory import MemoryLog
from services.ha.app import SERVICE
from tests.contract.test_eventlog import Clock, one

LATE_US = 7200 * 1_000_000


async def test_it_takes_the_logs_time_for_its_own_at_its_start_and_as_it_follows() -> None:
    writers = Clock()
    writers.us = 2 * LATE_US
    log = MemoryLog(writers)
    await log.append(one("thing-a", 0, 1))
    runner = Runner(SERVICE, log, MemoryBus(Hub(), name="ha"), ManualClock(LATE_US))
    await runner.start()
    assert runner.clock.now_us() >= 2 * LATE_US
    writers.us = 3 * LATE_US
    await log.append(one("thing-a", 1, 1))
    async with asyncio.timeout(10):
        while runner.host.reactions.taken < 2:
            await asyncio.sleep(0.01)
    assert runner.clock.now_us() >= 3 * LATE_US
    await runner.stop()
