"""What is asked of an agent about the memory of its VMs: `ask.<node>.translate` and `ask.<node>.memory`. Never recorded."""

from __future__ import annotations

import asyncio

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.messages import NodeId, encode
from proto.mapping import AskMemory, AskTranslate, MemoryUse, Translation, WhyNot
from services.node.drivers import Driver, DriverError, NoSuchVm
from services.node.drivers.memory import Untranslatable

AT_ONCE_MAX = 2
"""walking page tables holds up the process that has them"""

_translate = msgspec.msgpack.Decoder(AskTranslate).decode
_memory = msgspec.msgpack.Decoder(AskMemory).decode


class MemoryAsks:
    def __init__(self, node: NodeId, driver: Driver, bus: Bus) -> None:
        self._node = node
        self._driver = driver
        self._bus = bus
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self._node}.translate", self._on_translate)
        await self._bus.serve(f"ask.{self._node}.memory", self._on_memory)

    async def _on_translate(self, message: Incoming) -> None:
        try:
            ask = _translate(message.data)
            async with self._turns:
                answer = await self._translated(ask)
        except msgspec.MsgspecError as bad:
            answer = Translation(vm="", why_not=WhyNot.FAILED, error=f"not a question: {bad}")
        await message.respond(encode(answer))

    async def _translated(self, ask: AskTranslate) -> Translation:
        try:
            return await self._driver.memory.translate(ask.vm, ask.gva, ask.pid)
        except Untranslatable as no:
            return Translation(vm=ask.vm, steps=no.steps, why_not=no.why_not, error=str(no), remedy=no.remedy)
        except NoSuchVm as no:
            return Translation(vm=ask.vm, why_not=WhyNot.NO_VM, error=str(no), remedy="start it and wait until it runs")
        except DriverError as error:
            return Translation(vm=ask.vm, why_not=WhyNot.FAILED, error=str(error) or type(error).__name__)

    async def _on_memory(self, message: Incoming) -> None:
        try:
            async with self._turns:
                answer = await self._driver.memory.use(_memory(message.data).vm)
        except DriverError as error:
            answer = MemoryUse(vm="", error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            answer = MemoryUse(vm="", error=f"not a question: {bad}")
        await message.respond(encode(answer))
