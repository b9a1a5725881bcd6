"""The asyncio around the signs of life: looks at each VM every BEAT_S, tells `tel.<node>.vitals`, keeps pictures and gives them to
who asks (`ask.<node>.picture`)."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Mapping
from types import ModuleType

import msgspec

from libs.common.bus import Bus, BusError, Incoming
from libs.common.clock import Clock
from libs.common.messages import NodeId, encode
from proto.node import Screenshot
from proto.vitals import BEAT_S, AskPicture, Screen, VitalsBeat
from services.node.drivers import PANICKED, Driver, DriverError, Machine
from services.node.pictures import Pictures
from services.node.vitals import Vitals
from services.node.vm import Vm

log = logging.getLogger(__name__)

PING_S_MAX = 2.0
COUNT_S_MAX = 5.0
WITNESS_S_MAX = 1.0
"""a guest that panicked is told of after it, with or without a picture"""
AT_ONCE_MAX = 16
LATE_S = 3 * BEAT_S
"""a round of looks is over so long after it was due, at the latest"""
SLOW_ROUNDS = 4
"""so many rounds after a later one the node does not trust itself"""
TOLD_MAX = 500

_ask = msgspec.msgpack.Decoder(AskPicture).decode


class VitalsWatch:
    """vms: what the agent knows of each. pictures: where they are kept; None: nowhere."""

    def __init__(
        self, node: NodeId, boot_id: str, driver: Driver, bus: Bus, clock: Clock, vms: Callable[[], Mapping[str, Vm]],
        pictures: Pictures | None,
    ) -> None:  # fmt: skip
        self.vitals = Vitals()
        self._node = node
        self._boot_id = boot_id
        self._driver = driver
        self._bus = bus
        self._clock = clock
        self._vms = vms
        self._pictures = pictures
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._late = 0
        self._warm = False

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self._node}.picture", self._on_ask)

    async def run(self) -> None:
        due_s = self._clock.monotonic()
        while True:
            await self.look()
            now_s = self._clock.monotonic()
            self._late = SLOW_ROUNDS if now_s - due_s > LATE_S else max(0, self._late - 1)
            await self._tell()
            due_s = max(due_s + BEAT_S, now_s)
            await asyncio.sleep(due_s - now_s)

    async def look(self) -> None:
        """One round: all VMs that have a process."""
        vms = {name: vm for name, vm in self._vms().items() if vm.machine is not None}
        self.vitals.only(vms)
        await asyncio.gather(*(self._look(name, vm) for name, vm in sorted(vms.items())))
        if vms and not self._warm:
            await asyncio.to_thread(_screens)  # a guest that panics is not kept waiting for numpy
            self._warm = True

    async def _look(self, name: str, vm: Vm) -> None:
        async with self._turns:
            try:
                async with asyncio.timeout(COUNT_S_MAX):
                    count = await self._driver.vitals(name)
                answered = await self._ping(name) if count.channel and count.status == "running" else None
                hold = f"it is being changed ({vm.busy})" if vm.busy not in ("", "look", "persist") else ""
                self.vitals.look(count, answered, hold, self._now_us())
                if self.vitals.wants_screen(name, self._now_us()):
                    screen = await self._taken(name)
                    self.vitals.seen(name, screen, self._now_us())
            except (DriverError, TimeoutError) as error:
                log.debug("%s: its signs of life cannot be seen: %s", name, error)

    async def _ping(self, name: str) -> bool:
        """Another question that is waited for included: an agent that does not answer that one is silent, too."""
        try:
            async with asyncio.timeout(PING_S_MAX + 0.2):
                return await self._driver.ping(name, PING_S_MAX)
        except TimeoutError:
            return False

    async def witness(self, name: str) -> Machine:
        """A guest that panicked, with what its screen shows: at least the picture as QEMU makes it, read where there is time for
        that. Never raises for want of one."""
        screen = None
        try:
            async with asyncio.timeout(WITNESS_S_MAX):
                png = await self._driver.screenshot(name)
                screen = Screen(digest=await asyncio.to_thread(self._filed, name, png), at_us=self._clock.now_us())
                if self._warm:
                    screen = await self._taken(name)
        except (DriverError, TimeoutError) as error:
            log.warning("%s: its screen could not be read in time: %s", name, error)
        return Machine(name, 0, 0, PANICKED, screen=screen)

    async def _taken(self, name: str) -> Screen:
        """Raises DriverError."""
        ppm = await self._driver.frame(name)
        return await asyncio.to_thread(self._kept, name, ppm)

    def _kept(self, name: str, ppm: bytes) -> Screen:
        screens = _screens()
        try:
            pixels = screens.parse(ppm)
        except screens.BadPicture as bad:
            raise DriverError(f"the screen of {name} cannot be read: {bad}") from bad
        look, line = screens.classify(pixels)
        digest = self._filed(name, screens.png(pixels))
        return Screen(digest=digest, look=look, line=line, at_us=self._clock.now_us())

    def _filed(self, name: str, png: bytes) -> str:
        """The digest of a picture that is kept; "": it is not."""
        if self._pictures is None:
            return ""
        try:
            return self._pictures.keep(name, png)
        except OSError as error:
            log.warning("%s: the picture of its screen is not kept: %s", name, error)
            return ""

    async def _tell(self) -> None:
        told = self.vitals.told(self._now_us())[:TOLD_MAX]
        watched = len(self.vitals.of)
        beat = VitalsBeat(self._node, self._boot_id, self._clock.now_us(), watched, self._late > 0, told)
        try:
            await self._bus.publish(f"tel.{self._node}.vitals", encode(beat))
        except BusError as error:
            log.debug("signs of life were not told: %s", error)

    async def _on_ask(self, message: Incoming) -> None:
        try:
            ask = _ask(message.data)
            png = self._pictures.get(ask.vm, ask.digest) if self._pictures is not None else None
            answer = Screenshot(png=png) if png is not None else Screenshot(error=f"{self._node} does not keep that picture")
        except msgspec.MsgspecError as bad:
            answer = Screenshot(error=f"not a question: {bad}")
        await message.respond(encode(answer))

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * 1e6)


def _screens() -> ModuleType:
    """With numpy, which an agent without VMs needs not."""
    return importlib.import_module("services.node.screens")
