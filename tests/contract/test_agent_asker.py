"""Who asks the guests of recoveries: each that runs, until it answers as the process that the log names, and no longer than is
promised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from libs.common.bus.memory import Hub, MemoryBus
from libs.common.bus.permissions import service
from libs.common.clock import SystemClock
from libs.common.messages import encode
from proto.node import AskInfo, VmInfo
from proto.recovery import NORMAL_S_MAX, AnswerRecovery
from services.io.agent_asker import AgentAsker
from services.io.backups.agent_views import AgentViews, Mute

WELL = VmInfo(generation=3, guest_agent=True)


class Beside:
    """io's process and a node's agent, as far as the asker sees them."""

    def __init__(self, info: VmInfo = WELL, **mute: Any) -> None:
        self.info, self.asked, self.told = info, list[str](), list[AnswerRecovery]()
        one = Mute("a", "r1-9", SystemClock().now_us(), standing=True, node="n1", generation=3)
        for key, value in mute.items():
            setattr(one, key, value)
        self.views = AgentViews(mute={"x": one})
        hub = Hub()
        self.node = MemoryBus(hub, name="n1")
        runner = SimpleNamespace(host=SimpleNamespace(views=SimpleNamespace(agents=self.views)), say=self.say)
        bus = MemoryBus(hub, name="io", grant=service("io"))
        self.asker = AgentAsker(SimpleNamespace(runner=runner, bus=bus, clock=SystemClock()))  # type: ignore[arg-type]

    async def _info(self, message: Any) -> None:
        self.asked.append(msgspec.msgpack.decode(message.data, type=AskInfo).vm)
        await message.respond(encode(self.info))

    def say(self, answer: AnswerRecovery) -> None:
        self.told.append(answer)
        self.views.mute.clear()

    async def until(self, look: Callable[[], bool]) -> None:
        await self.node.serve("ask.n1.info", self._info)
        await self.asker.start()
        try:
            async with asyncio.timeout(10):
                while not look():
                    await asyncio.sleep(0.01)
        finally:
            await self.asker.stop()


async def test_an_answer_is_told_once() -> None:
    beside = Beside()
    await beside.until(lambda: bool(beside.told))
    assert beside.told == [AnswerRecovery(vm="a", recovery="r1-9", generation=3)] and beside.asked == ["x"]


@pytest.mark.parametrize("info", [VmInfo(generation=3), VmInfo(generation=2, guest_agent=True), VmInfo(error="no such VM")])
async def test_it_is_asked_again_until_it_answers_as_the_process_that_runs(info: VmInfo) -> None:
    beside = Beside(info)
    await beside.until(lambda: len(beside.asked) >= 2)
    assert not beside.told
    beside.info = WELL
    await beside.until(lambda: bool(beside.told))


@pytest.mark.parametrize("mute", [{"node": ""}, {"ordered_us": SystemClock().now_us() - (NORMAL_S_MAX + 1) * 1_000_000}])
async def test_who_does_not_run_is_not_asked_nor_who_has_no_agent_as_it_seems(mute: dict[str, Any]) -> None:
    beside = Beside(**mute)
    for _ in range(3):
        beside.asker.look()
        await asyncio.sleep(0)
    assert not beside.asked and not beside.told
