"""Who asks the guests of recovery drills: over a bus, of an agent that answers late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from libs.common.bus.memory import Hub, MemoryBus
from libs.common.bus.permissions import service
from libs.common.clock import SystemClock
from libs.common.messages import encode
from proto.drills import OUTPUT_MAX, AnswerDrill, Drill
from proto.node import AskExec, AskInfo, ExecResult, VmInfo
from services.io.asker import DrillAsker, answered, plain
from services.io.backups.drill_states import Drilling, Drills, Phase
from services.io.backups.drill_views import DrillViews
from services.io.backups.states import Backups

NOW = Drilling(
    id="d1-8", wish=Drill(check=("sh", "-c", "x"), timeout_s=600), asked_us=1, phase=Phase.CHECKING, target="drill-a-1-9",
    started_us=SystemClock().now_us(), made=True, runs=True, node="n1", generation=3, ran_ms=5,
)  # fmt: skip


class Guest:
    """An agent's answers; asked: what it was asked."""

    def __init__(self) -> None:
        self.info, self.result = VmInfo(generation=3, guest_agent=True), ExecResult(stdout=b"all is well\n")
        self.asked: list[AskExec | AskInfo] = []

    async def serve(self, bus: MemoryBus) -> None:
        await bus.serve("ask.n1.info", self._info)
        await bus.serve("ask.n1.exec", self._exec)

    async def _info(self, message: Any) -> None:
        self.asked.append(msgspec.msgpack.decode(message.data, type=AskInfo))
        await message.respond(encode(self.info))

    async def _exec(self, message: Any) -> None:
        self.asked.append(msgspec.msgpack.decode(message.data, type=AskExec))
        await message.respond(encode(self.result))


class Beside:
    """io's process, as far as the asker sees it: what is told to the stream leads it on, as the log would."""

    def __init__(self, hub: Hub, now: Drilling) -> None:
        self.now, self.told = now, list[AnswerDrill]()
        views = SimpleNamespace(drills=DrillViews(targets={now.target: "a"}))
        host = SimpleNamespace(views=views, slots=self)
        runner = SimpleNamespace(host=host, say=self.say)
        bus = MemoryBus(hub, name="io", grant=service("io"))
        self.asker = DrillAsker(SimpleNamespace(runner=runner, bus=bus, clock=SystemClock()))  # type: ignore[arg-type]

    def get(self, stream: str) -> Any:
        return SimpleNamespace(state=Backups(drills=Drills(now=self.now))) if stream == "backups-a" else None

    def say(self, answer: AnswerDrill) -> None:
        self.told.append(answer)
        over = answer.exit_code is not None or answer.error or not self.now.wish.check
        self.now = replace(self.now, agent_ms=9, phase=Phase.CLEANING if over else self.now.phase)

    async def until(self, look: Callable[[], bool]) -> None:
        await self.asker.start()
        try:
            async with asyncio.timeout(10):
                while not look():
                    await asyncio.sleep(0.01)
        finally:
            await self.asker.stop()


async def world(now: Drilling = NOW) -> tuple[Guest, Beside]:
    hub, guest = Hub(), Guest()
    await guest.serve(MemoryBus(hub, name="n1"))
    return guest, Beside(hub, now)


async def test_the_agent_first_then_the_check_once() -> None:
    guest, beside = await world()
    await beside.until(lambda: beside.now.phase is Phase.CLEANING)
    asked = [(one.exit_code, one.output, one.generation) for one in beside.told]
    assert asked == [(None, "", 3), (0, "all is well\n", 3)]
    assert [type(ask) for ask in guest.asked] == [AskInfo, AskExec]
    check = guest.asked[1]
    assert isinstance(check, AskExec) and (check.vm, check.argv) == ("drill-a-1-9", ("sh", "-c", "x"))
    assert 0 < check.timeout_s <= 290


async def test_without_a_check_the_agent_is_enough() -> None:
    guest, beside = await world(replace(NOW, wish=Drill()))
    await beside.until(lambda: beside.now.phase is Phase.CLEANING)
    assert [one.exit_code for one in beside.told] == [None] and len(guest.asked) == 1


@pytest.mark.parametrize("info", [VmInfo(generation=3), VmInfo(generation=2, guest_agent=True), VmInfo(error="no such VM")])
async def test_asked_again_until_it_answers_as_the_process_that_the_log_names(info: VmInfo) -> None:
    guest, beside = await world()
    guest.info = info
    await beside.until(lambda: len(guest.asked) >= 3)
    assert not beside.told
    guest.info = VmInfo(generation=3, guest_agent=True)
    await beside.until(lambda: beside.now.phase is Phase.CLEANING)


async def test_what_was_answered_is_not_asked_again_by_the_next_process() -> None:
    guest, beside = await world(replace(NOW, agent_ms=9))
    await beside.until(lambda: beside.now.phase is Phase.CLEANING)
    assert [type(ask) for ask in guest.asked] == [AskExec]


async def test_who_waits_is_not_asked_nor_who_has_no_agent() -> None:
    for now in (replace(NOW, phase=Phase.BOOTING), replace(NOW, wish=Drill(agent=False)), replace(NOW, target="another")):
        guest, beside = await world(NOW)
        beside.now = now
        for _ in range(3):
            beside.asker.look()
            await asyncio.sleep(0)
        assert not guest.asked and not beside.told


def test_so_much_is_kept_and_nothing_that_a_terminal_obeys() -> None:
    long = answered("a", NOW, ExecResult(stdout=b"x" * 5000, stderr=b"\x1b[2Jlast\r\n", exit_code=3))
    assert len(long.output) == OUTPUT_MAX and long.output.endswith("[2Jlast\n") and "\x1b" not in long.output
    assert long.exit_code == 3
    assert answered("a", NOW, ExecResult(error="no such program")).exit_code is None
    assert plain(b"\xff\x00a\tb") == "\ufffd\ufffda\tb"
