"""Asks the guests of recovery drills: does the agent answer, and how does the check go? (`ask.<node>.info`, `ask.<node>.exec`)

What came of it is told to the drill's own stream. Nothing is kept across a crash: the next process finds in the log what was
answered, and asks the rest again; so a check may be run twice. Where no answer comes (the guest boots still, its node is away) it
is asked again, until the drill's time is over.
"""

from __future__ import annotations

import logging

import msgspec

from libs.common.bus import BusError
from libs.common.host.beside import Place
from libs.common.messages import Message, encode
from proto.drills import OUTPUT_MAX, AnswerDrill
from proto.node import AskExec, AskInfo, ExecResult, VmInfo
from services.io.backups.drill_states import Drilling, Phase
from services.io.backups.drill_views import DrillViews
from services.io.questions import Questions

log = logging.getLogger(__name__)

INFO_S = 2.0
EXEC_S_MAX = 290.0
"""an agent of a node waits for no program longer than five minutes"""
LATER_S = 10.0
"""for an answer, beyond the time that the program has"""
TOLD_S = 5.0
"""what was told and is not in the log by then is asked again"""

_info = msgspec.msgpack.Decoder(VmInfo).decode
_result = msgspec.msgpack.Decoder(ExecResult).decode


class DrillAsker:
    """Beside io: one question at a time to each drill."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._questions = Questions("drills", self.look)
        self._told: dict[str, float] = {}

    async def start(self) -> None:
        await self._questions.start()

    async def stop(self) -> None:
        await self._questions.stop()

    def look(self) -> None:
        """Begins to ask those whose turn it is."""
        views: DrillViews = self._place.runner.host.views.drills
        self._told = {target: at_s for target, at_s in self._told.items() if target in views.targets}
        for target, vm in views.targets.items():
            now = self._drill(vm)
            if now is None or now.target != target or now.phase is not Phase.CHECKING or not now.wish.agent:
                continue
            told = self._place.clock.monotonic() - self._told.get(target, float("-inf")) < TOLD_S
            if target not in self._questions.busy and not told:
                self._questions.ask(target, self._ask(vm, now))

    def _drill(self, vm: str) -> Drilling | None:
        slot = self._place.runner.host.slots.get(f"backups-{vm}")
        drills = slot.state.drills if slot is not None else None
        return drills.now if drills is not None else None

    async def _ask(self, vm: str, now: Drilling) -> None:
        try:
            if now.agent_ms is None:
                info = _info(await self._request(now, "info", AskInfo(vm=now.target), INFO_S))
                if not info.guest_agent or info.generation != now.generation:
                    return
                self._place.runner.say(AnswerDrill(vm=vm, drill=now.id, generation=now.generation))
            if not now.wish.check:
                self._told[now.target] = self._place.clock.monotonic()
                return
            left_s = (now.deadline_us - self._place.clock.now_us()) / 1e6
            timeout_s = min(max(left_s, 1.0), EXEC_S_MAX)
            ask = AskExec(vm=now.target, argv=now.wish.check, timeout_s=timeout_s)
            result = _result(await self._request(now, "exec", ask, timeout_s + LATER_S))
        except (BusError, msgspec.DecodeError) as error:
            log.debug("drill %s: %s did not answer: %s", now.id, now.node, error)
            return
        self._told[now.target] = self._place.clock.monotonic()
        self._place.runner.say(answered(vm, now, result))

    async def _request(self, now: Drilling, what: str, ask: Message, timeout_s: float) -> bytes:
        """Raises BusError."""
        return await self._place.bus.request(f"ask.{now.node}.{what}", encode(ask), timeout_s=timeout_s)


def answered(vm: str, now: Drilling, result: ExecResult) -> AnswerDrill:
    """Of what it wrote so much as is kept, both streams one after the other."""
    answer = AnswerDrill(vm=vm, drill=now.id, generation=now.generation, error=result.error)
    if result.error:
        return answer
    output = plain(result.stdout) + plain(result.stderr)
    return msgspec.structs.replace(answer, exit_code=result.exit_code, output=output[-OUTPUT_MAX:])


def plain(data: bytes) -> str:
    """Text without what a terminal would obey."""
    text = data.decode("utf-8", "replace")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" if c != "\r" else "" for c in text)
