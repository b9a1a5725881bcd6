"""One test, or one try to switch, from the first question to what is told of it. All judgement is the decider's (judge.py); here is
only seen to it that the wrong machine is never switched, and that every call ends in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libs.common.clock import Clock
from proto.fence import READS_MAX, NoteFence, NoteTest, Ordered, Power, PowerRead, Want
from services.ha.fencing.device import AlreadySo, DeviceError, FenceDevice, OddAnswer, Seen, TimedOut
from services.ha.fencing.states import Job

TRY_S = 12.0
"""from the order until the power has to be seen as wanted; BMCs take some seconds"""
EVERY_S = 0.15
"""between two reads"""
PROOF_READS = READS_MAX // 2
"""those of a proof are all told, so they lie further apart where the first and the last do"""


@dataclass(frozen=True, slots=True)
class Asking:
    """A device with its bounds. call_s: for one call; try_s: for all reads after the order."""

    device: FenceDevice
    clock: Clock
    call_s: float
    try_s: float = TRY_S
    every_s: float = EVERY_S

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

    def note(ordered: Ordered, reads: list[PowerRead], error: str = "") -> NoteFence:
        return NoteFence(
            node=node,
            attempt=job.attempt,
            now_us=asking.clock.now_us(),
            ordered=ordered,
            reads=tuple(reads[-READS_MAX:]),
            error=error,
        )

    before = await _read(asking, None)
    if before.error:
        return note(Ordered.NOT_SENT, [before], f"not ordered, as it does not answer: {before.error}")
    if before.identity != job.identity:
        return note(Ordered.NOT_SENT, [before])
    if not wanted():
        return note(Ordered.NOT_SENT, [before], "not ordered, as it is not wanted any more")
    sent = asking.clock.monotonic()
    order = asking.device.cut if job.want == Want.OFF else asking.device.restore
    try:
        await asking.call(f"the order to switch {job.want}", order)
        ordered = Ordered.TAKEN
    except AlreadySo:
        ordered = Ordered.NEEDLESS
    except TimedOut as error:
        return note(Ordered.SILENT, [before], error.sentence)
    except DeviceError as error:
        return note(Ordered.FAILED, [before], error.sentence)
    return note(ordered, [before, *await _reads(asking, job, sent)])


async def _reads(asking: Asking, job: Job, sent: float) -> list[PowerRead]:
    """Until it was seen as wanted for long enough, or the time is over."""
    reads: list[PowerRead] = []
    first: PowerRead | None = None
    every_s = max(asking.every_s, job.apart_ms / 1000 / PROOF_READS)
    while True:
        read = await _read(asking, sent)
        reads.append(read)
        good = not read.error and read.power == Power(job.want) and read.identity == job.identity
        first = (first or read) if good else None
        if first is not None and first is not read and read.after_ms - first.after_ms >= job.apart_ms:
            return reads
        over = asking.clock.monotonic() - sent >= asking.try_s
        if over or (not read.error and read.identity != job.identity):
            return reads
        await asyncio.sleep(every_s)


async def _read(asking: Asking, sent: float | None) -> PowerRead:
    """after_ms of a read is that of its question, so that none counts as later than it is."""
    at_us = asking.clock.now_us()
    after_ms = -1 if sent is None else int((asking.clock.monotonic() - sent) * 1000)
    try:
        seen: Seen = await asking.call("the question for its power", asking.device.look)
    except DeviceError as error:
        return PowerRead(at_us=at_us, after_ms=after_ms, error=error.sentence)
    return PowerRead(at_us=at_us, after_ms=after_ms, power=seen.power, identity=seen.identity)
