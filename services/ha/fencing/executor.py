"""Asks fence devices what the log wants of them: tests, attempts, and every hour the test again. One thing at a time per device, so
many devices at once; nothing of it holds up the event loop. What came of it is told to the decider, and done again only where that
was lost on the way.

It keeps nothing across a crash: an attempt that the log has open is tried again by the next process. To cut a power that is cut
already changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Protocol

from libs.common.clock import Clock
from libs.common.messages import Command
from libs.common.secrets import Secret, SecretError
from proto.fence import Device, NoteFence, NoteTest, Ordered
from services.ha.fencing import conduct
from services.ha.fencing.device import FenceDevice, Unusable
from services.ha.fencing.states import Fence, Job

log = logging.getLogger(__name__)

LOOK_S = 0.05
ALL_S = 1.0
"""between two looks at devices of which nothing was asked: is their test due again?"""
TEST_EVERY_S = 3600.0
FAILED_EVERY_S = 300.0
"""a device whose last test failed: so that what was mended is seen without somebody's word"""
TOLD_S = 5.0
"""what was told and has changed nothing by then is done again"""
AT_ONCE_MAX = 32


class Due(Enum):
    TEST = auto()
    JOB = auto()


class SecretSource(Protocol):
    async def get(self, secret: Secret) -> bytes: ...


@dataclass(slots=True)
class Told:
    """What was done last for a device, and when, by the monotonic clock."""

    test: int = 0
    test_s: float = float("-inf")
    job: tuple[int, int] = (0, 0)
    job_s: float = float("-inf")


def due(fence: Fence, told: Told, now_us: int, now_s: float) -> Due | None:
    """Pure."""
    if fence.device is None:
        return None
    if (job := fence.job) is not None:
        again = told.job != (job.attempt, job.tries) or now_s - told.job_s >= TOLD_S
        return Due.JOB if again and now_us >= job.due_us else None
    if fence.noted < fence.number and (told.test != fence.number or now_s - told.test_s >= TOLD_S):
        return Due.TEST
    every_s = TEST_EVERY_S if fence.tested is not None and fence.tested.ok else FAILED_EVERY_S
    return Due.TEST if fence.noted == fence.number and now_s - told.test_s >= every_s else None


@dataclass
class Executor:
    """fences: as the log has them now, by node; waiting: those of which something is asked. say: to the decider. leads: whether
    this process is the one that acts; a device is ordered nothing by another. try_s: how long a power may take to be seen as
    wanted."""

    fences: Callable[[], Mapping[str, Fence]]
    waiting: Callable[[], Collection[str]]
    say: Callable[[Command], None]
    open: Callable[[Device, str], FenceDevice]
    secrets: SecretSource | None
    clock: Clock
    leads: Callable[[], bool] = lambda: True
    try_s: float = conduct.TRY_S
    told: dict[str, Told] = field(default_factory=dict)
    _all_s: float = float("-inf")
    _busy: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Until it is cancelled; what is under way then ends with it."""
        try:
            while True:
                self.look()
                await asyncio.sleep(LOOK_S)
        finally:
            for task in list(self._busy.values()):
                task.cancel()

    def look(self) -> None:
        if not self.leads():
            return
        now_us, now_s = self.clock.now_us(), self.clock.monotonic()
        fences = self.fences()
        names: Collection[str] = self.waiting()
        if now_s - self._all_s >= ALL_S:
            self._all_s, names = now_s, fences
        for node in list(names):
            if node in self._busy or len(self._busy) >= AT_ONCE_MAX or node not in fences:
                continue
            fence = fences[node]
            told = self.told.setdefault(node, Told())
            what = due(fence, told, now_us, now_s)
            if what is None or fence.device is None:
                continue
            work = (
                self._test(node, fence.device, fence.number)
                if what is Due.TEST
                else self._job(node, fence.device, fence.job)
            )
            task = asyncio.get_running_loop().create_task(work, name=f"fence {node}")
            self._busy[node] = task
            task.add_done_callback(partial(self._done, node))

    def _done(self, node: str, task: asyncio.Task[None]) -> None:
        self._busy.pop(node, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug in fencing %s", node, exc_info=error)

    async def _test(self, node: str, device: Device, number: int) -> None:
        try:
            asking = await self._asking(device)
            note = await conduct.test(asking, node, number)
        except Unusable as error:
            now_us = self.clock.now_us()
            note = NoteTest(node=node, number=number, now_us=now_us, error=error.sentence, remedy=error.remedy)
        told = self.told[node]
        told.test, told.test_s = number, self.clock.monotonic()
        self.say(note)

    async def _job(self, node: str, device: Device, job: Job | None) -> None:
        assert job is not None
        try:
            asking = await self._asking(device)
            note = await conduct.switch(asking, node, job, lambda: self._wanted(node, job))
        except Unusable as error:
            now_us = self.clock.now_us()
            note = NoteFence(
                node=node, attempt=job.attempt, now_us=now_us, ordered=Ordered.NOT_SENT, error=error.sentence
            )
        told = self.told[node]
        told.job, told.job_s = (job.attempt, job.tries), self.clock.monotonic()
        log.info(
            "fence device of %s, attempt %d: %s; %s",
            node,
            job.attempt,
            note.ordered,
            note.error or f"{len(note.reads)} reads",
        )
        self.say(note)

    def _wanted(self, node: str, job: Job) -> bool:
        fence = self.fences().get(node)
        return self.leads() and fence is not None and fence.job is not None and fence.job.attempt == job.attempt

    async def _asking(self, device: Device) -> conduct.Asking:
        """Raises Unusable where its password cannot be had."""
        password = ""
        if device.password is not None:
            if self.secrets is None:
                raise Unusable("the ha service was given no key to read passwords with", "set ASV_SECRETS_KEY for it")
            try:
                password = (await self.secrets.get(device.password)).decode()
            except SecretError as error:
                raise Unusable(f"the device's password cannot be read: {error}", "set the device anew") from error
        opened = self.open(device, password)
        await opened.prepare()
        return conduct.Asking(opened, self.clock, device.call_s, self.try_s)
