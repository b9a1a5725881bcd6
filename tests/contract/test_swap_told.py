"""An agent whose host's swap changes tells compute at once, until it was heard."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import msgspec

from libs.common.bus import Incoming
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import SystemClock
from libs.common.messages import Envelope, NodeId, Reply, encode
from libs.common.protocol import OURS, Range
from proto.compute import Capabilities
from proto.node import PLAIN, SwapNow
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simulated import SimulatedDriver
from services.node.keep import Keep
from services.node.memory_watch import MemoryWatch
from services.node.runner import AgentRunner

N1 = NodeId("n1")
ZRAM = SwapNow("/dev/zram1", "zram", 900, memory_max_mib=300, own=True)
PLAIN_ONE = SwapNow("/dev/sda2", PLAIN, 4096, why_not="is not encrypted")


class Compute:
    """Hears what the node is; away: how many times more it does not."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[Capabilities] = asyncio.Queue()
        self.away = 0

    async def hear(self, message: Incoming) -> None:
        fact = msgspec.msgpack.decode(msgspec.msgpack.decode(message.data, type=Envelope).data)
        if "capabilities" in fact:
            if self.away:
                self.away -= 1
                await message.respond(encode(Reply(status="unavailable")))
                return
            self.reports.put_nowait(msgspec.convert(fact["capabilities"], Capabilities))
        await message.respond(encode(Reply(status="accepted")))


async def test_swap_that_comes_or_is_unfit_is_told_at_once(tmp_path: Path) -> None:
    clock, bus, compute = SystemClock(), MemoryBus(Hub()), Compute()
    for service in ("compute", "memory", "io"):
        await bus.serve(f"fact.n1.{service}", compute.hear)
    host = SimHost("n1", SimParams(), Random(1))
    driver = SimulatedDriver(host, clock)
    agent = AgentRunner(N1, "boot-1", driver, Keep(tmp_path), bus, clock, lambda: (4096, 0.1), ("one more",))
    await agent.start()
    watch = MemoryWatch(N1, "boot-1", driver, bus, clock, lambda: 1, agent.renew)
    await watch.start()
    try:
        async with asyncio.timeout(20):
            first = await compute.reports.get()
            assert (first.swap_mib, first.swap_memory_mib, first.not_enforced[-1]) == (0, 0, "one more")
            assert Range(first.protocol_min, first.protocol) == OURS, "else nobody could finalize at it"
            compute.away = 2
            host.swaps = (ZRAM,)
            made = await compute.reports.get()
            assert (made.swap_mib, made.swap_memory_mib, compute.away) == (900, 300, 0), "said again until it was heard"
            host.swaps = (ZRAM, PLAIN_ONE)
            unfit = await compute.reports.get()
            assert (unfit.swap_mib, unfit.swap_memory_mib) == (0, 0)
            assert "swap for VMs (/dev/sda2 is on, and is not encrypted)" in unfit.not_enforced
            assert unfit.not_enforced[-1] == "one more"
            assert compute.reports.empty(), "the same is not said twice"
    finally:
        await watch.stop()
        await agent.stop()
