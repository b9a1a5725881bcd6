"""`ask.<node>.io`: what a VM's devices do right now. Nothing is sampled while nobody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.clock import Clock
from libs.common.messages import NodeId, encode
from proto.ioview import AskIo, VmIo
from services.node.drivers import Driver, DriverError
from services.node.io_rates import Look, Looks, view
from services.node.vm import Vm

AT_ONCE_MAX = 4
"""a look is some dozens of questions to QEMU"""

_ask = msgspec.msgpack.Decoder(AskIo).decode


class IoAsks:
    """vms: what the agent knows of each."""

    def __init__(self, node: NodeId, driver: Driver, bus: Bus, clock: Clock, vms: Callable[[], Mapping[str, Vm]]) -> None:
        self._node = node
        self._driver = driver
        self._bus = bus
        self._clock = clock
        self._vms = vms
        self._looks = Looks()
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self._node}.io", self._on_io)

    async def _on_io(self, message: Incoming) -> None:
        try:
            ask = _ask(message.data)
            async with self._turns:
                answer = await self._seen(ask.vm)
        except DriverError as error:
            answer = VmIo(error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            answer = VmIo(error=f"not a question: {bad}")
        await message.respond(encode(answer))

    async def _seen(self, name: str) -> VmIo:
        count = await self._driver.io(name)
        look = Look(round(self._clock.monotonic() * 1e6), count)
        before = self._looks.before(look)
        vms = self._vms()
        self._looks.only(tuple(vms))
        return view(self._node, look, before, _names(vms.get(name)))


def _names(vm: Vm | None) -> dict[int, str]:
    """Of its disks and NICs, by slot, those on their way out included where they are known."""
    if vm is None:
        return {}
    spec = vm.order.spec if vm.order is not None else None
    has = spec or vm.fitted or vm.kept
    return {d.slot: d.name for d in has.disks} | {n.slot: n.name for n in has.nics}
