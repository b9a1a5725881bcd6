"""Asks the guests of recoveries whether their agent answers (`ask.<node>.info`), until it did once: how long that took counts.

Nothing is kept across a crash: who has not answered by the log is asked by the next process. A guest without an agent is asked for
as long as a recovery is promised to take, and no longer.
"""

from __future__ import annotations

import logging

import msgspec

from libs.common.bus import BusError
from libs.common.host.beside import Place
from libs.common.messages import encode
from proto.node import AskInfo, VmInfo
from proto.recovery import NORMAL_S_MAX, AnswerRecovery
from services.io.backups.agent_views import AgentViews, Mute
from services.io.questions import Questions

log = logging.getLogger(__name__)

INFO_S = 2.0
AGAIN_S = 0.5
"""between two questions to one guest"""
AT_ONCE_MAX = 16
"""questions, of all guests"""

_info = msgspec.msgpack.Decoder(VmInfo).decode


class AgentAsker:
    """Beside io: one question at a time to each guest."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._questions = Questions("agents", self.look)
        self._asked: dict[str, float] = {}

    async def start(self) -> None:
        await self._questions.start()

    async def stop(self) -> None:
        await self._questions.stop()

    def look(self) -> None:
        """Begins to ask those whose turn it is; who was asked last waits longest."""
        agents: AgentViews = self._place.runner.host.views.agents
        now_s, since_us = self._place.clock.monotonic(), self._place.clock.now_us() - NORMAL_S_MAX * 1_000_000
        self._asked = {vm: at_s for vm, at_s in self._asked.items() if vm in agents.mute}
        busy = self._questions.busy
        turns = [vm for vm, one in agents.mute.items() if one.node and one.ordered_us >= since_us and vm not in busy]
        for vm in sorted(turns, key=lambda vm: self._asked.get(vm, 0.0)):
            if len(busy) >= AT_ONCE_MAX or now_s - self._asked.get(vm, float("-inf")) < AGAIN_S:
                return
            self._asked[vm] = now_s
            self._questions.ask(vm, self._ask(vm, agents.mute[vm]))

    async def _ask(self, vm: str, one: Mute) -> None:
        node, generation = one.node, one.generation
        try:
            data = await self._place.bus.request(f"ask.{node}.info", encode(AskInfo(vm=vm)), timeout_s=INFO_S)
            info = _info(data)
        except (BusError, msgspec.DecodeError) as error:
            log.debug("%s: %s did not answer: %s", vm, node, error)
            return
        if info.guest_agent and info.generation == generation:
            self._place.runner.say(AnswerRecovery(vm=one.source, recovery=one.recovery, generation=generation))
