"""Tests and tries on a device, in real time: what attempt.py wants asked is asked here, and every call ends in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libs.common.clock import Clock
from proto.fence import NoteFence, NoteTest, Want
from services.ha.fencing.attempt import EVERY_MS, TRY_MS, Look, Moment, Order, Step, Try
from services.ha.fencing.device import DeviceError, FenceDevice, OddAnswer, Seen, TimedOut
from services.ha.fencing.states import Job

TRY_S = TRY_MS / 1000


@dataclass(frozen=True, slots=True)
class Asking:
    """A device with its bounds. call_s: for one call; try_s: for all reads after the order."""

    device: FenceDevice
    clock: Clock
    call_s: float
    try_s: float = TRY_S
    every_s: float = EVERY_MS / 1000

    @property
    def moment(self) -> Moment:
        return Moment(self.clock.now_us(), int(self.clock.monotonic() * 1000))

    async def call[T](self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Raises DeviceError, whatever goes wrong."""
        try:
            async with asyncio.timeout(self.call_s):
                return await call()
        except TimeoutError as error:
            raise TimedOut(f"no answer to {what} within {self.call_s:g} s") from error
        except DeviceError:
            raise
        except Exception as error:  # a library's surprise is one more way not to know
            raise OddAnswer(f"{what} failed: {type(error).__name__}") from error


async def test(asking: Asking, node: str, number: int) -> NoteTest:
    """Ask without switching anything."""
    try:
        seen = await asking.call("the question for its power", asking.device.look)
        await asking.call("the question what it can do", asking.device.check)
    except DeviceError as error:
        now_us = asking.clock.now_us()
        return NoteTest(node=node, number=number, now_us=now_us, error=error.sentence, remedy=error.remedy)
    return NoteTest(node=node, number=number, now_us=asking.clock.now_us(), power=seen.power, identity=seen.identity)


async def switch(asking: Asking, node: str, job: Job, wanted: Callable[[], bool]) -> NoteFence:
    """One try. wanted: whether it still is, asked right before the order."""
    going = Try(node, job, round(asking.try_s * 1000), round(asking.every_s * 1000))
    step: Step = Look()
    while True:
        match step:
            case NoteFence():
                return step
            case Look(wait_ms):
                await asyncio.sleep(wait_ms / 1000)
                asked = asking.moment
                answer = await _look(asking)
                step = going.seen(asked, asking.moment, answer)
            case Order(want) if wanted():
                sent = asking.moment
                refused = await _order(asking, want)
                step = going.ordered(sent, asking.moment, refused)
            case Order():
                step = going.unwanted(asking.moment)


async def _look(asking: Asking) -> Seen | DeviceError:
    try:
        return await asking.call("the question for its power", asking.device.look)
    except DeviceError as error:
        return error


async def _order(asking: Asking, want: Want) -> DeviceError | None:
    try:
        await asking.call(f"the order to switch {want}", asking.device.cut if want == Want.OFF else asking.device.restore)
    except DeviceError as error:
        return error
    return None
