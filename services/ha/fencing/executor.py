"""Asks fence devices what the log wants of them: tests, attempts, and every hour the test again (agenda.py). Nothing of it holds up
the event loop. What came of it is told to the decider, and done again only where that was lost on the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from libs.common.clock import Clock
from libs.common.messages import Command
from libs.common.secrets import Secret, SecretError
from proto.fence import Device, NoteFence, NoteTest, Ordered
from services.ha.fencing import conduct
from services.ha.fencing.agenda import Agenda, Due
from services.ha.fencing.device import FenceDevice, Unusable
from services.ha.fencing.states import Fence, Job

log = logging.getLogger(__name__)

LOOK_S = 0.05


class SecretSource(Protocol):
    async def get(self, secret: Secret) -> bytes: ...


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
    agenda: Agenda = field(default_factory=Agenda)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Until it is cancelled; what is under way then ends with it."""
        try:
            while True:
                self.look()
                await asyncio.sleep(LOOK_S)
        finally:
            for task in list(self._tasks):
                task.cancel()

    def look(self) -> None:
        if not self.leads():
            return
        now_us, now_s = self.clock.now_us(), self.clock.monotonic()
        for node, fence, what in self.agenda.take(self.fences(), self.waiting(), now_us, now_s):
            assert fence.device is not None
            test = what is Due.TEST
            work = self._test(node, fence.device, fence.number) if test else self._job(node, fence.device, fence.job)
            task = asyncio.get_running_loop().create_task(work, name=f"fence {node}")
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, node))

    def _done(self, node: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.agenda.dropped(node)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug in fencing %s", node, exc_info=error)

    async def _test(self, node: str, device: Device, number: int) -> None:
        try:
            asking = await self._asking(device)
            note = await conduct.test(asking, node, number)
        except Unusable as error:
            now_us = self.clock.now_us()
            note = NoteTest(node=node, number=number, now_us=now_us, error=error.sentence, remedy=error.remedy)
        self.agenda.tested(node, number, self.clock.monotonic())
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
        self.agenda.tried(node, job, self.clock.monotonic())
        said = note.error or f"{len(note.reads)} reads"
        log.info("fence device of %s, attempt %d: %s; %s", node, job.attempt, note.ordered, said)
        self.say(note)

    def _wanted(self, node: str, job: Job) -> bool:
        return self.leads() and wanted(self.fences(), node, job)

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


def wanted(fences: Mapping[str, Fence], node: str, job: Job) -> bool:
    """Whether the log still wants that attempt."""
    fence = fences.get(node)
    return fence is not None and fence.job is not None and fence.job.attempt == job.attempt
