"""The asyncio around the relay's stepper."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from libs.common.bus import Bus, BusError
from libs.common.host import figures, status
from libs.common.host.driver import RETRY_S
from libs.common.host.effects import Publish, Read, SaveMark
from libs.common.host.relay import Relay
from libs.common.host.tasks import Tasks
from libs.common.log import EventLog, Fenced, LogError

log = logging.getLogger(__name__)

BUSY_MIN = 32
BUSY_S = 0.004
"""after a batch of so many events it lets that long go by: while much is written, fewer and larger batches cost everybody less,
from the database to the last consumer; when little is, nothing waits"""


class RelayRunner:
    """The one relay of a log. Should two run by mistake, the bus drops what is said twice."""

    def __init__(self, events: EventLog, bus: Bus, process: str = "relay") -> None:
        self._process = process
        self.published = 0
        self.failures = 0
        self._log = events
        self._bus = bus
        self._tasks = Tasks()
        self.relay: Relay | None = None
        self.fenced = asyncio.Event()
        """the log has another incarnation: this process is of the past and is to end"""

    @property
    def name(self) -> str:
        return "relay"

    def question(self, what: str, data: bytes) -> msgspec.Struct:
        """`query.relay.status`, `.metrics`. Raises KeyError for all else."""
        if self.relay is not None and what == "metrics":
            return figures.of_relay(self._process, self.relay.position, self.published, self.failures)
        if what != "status" or self.relay is None:
            raise KeyError(what)
        return status.Status(service="relay", incarnation=self.relay.incarnation, position=self.relay.position)

    async def start(self) -> None:
        head = await self._log.head()
        await self._bus.publish_events(())  # makes the stream: others' feeds wait for it, also while the log is empty
        self.relay = Relay(head.incarnation, await self._log.consumer_position("relay"))
        self._tasks.start(self._run(self.relay), "relay")

    async def _run(self, relay: Relay) -> None:
        steps: list[Read | Publish | SaveMark] = [relay.start()]
        while True:
            step = steps.pop(0)
            try:
                steps += await self._step(relay, step)
            except Fenced as error:
                log.error("the relay ends: %s", error)
                self.fenced.set()
                return
            except LogError as error:
                log.warning("the relay cannot read the log just now: %s", error)
                await asyncio.sleep(RETRY_S)
                steps = [relay.start()]

    async def _step(self, relay: Relay, step: Read | Publish | SaveMark) -> list[Read | Publish | SaveMark]:
        match step:
            case Read(after, limit):
                records = await self._log.read_all(after, limit)
                if not records:
                    await self._log.wait(after, 1.0)
                    await self._log.head()  # raises Fenced for a log that was restored
                return [relay.on_records(records)]
            case Publish(published):
                try:
                    await self._bus.publish_events(published)
                except BusError as error:
                    self.failures += 1
                    log.warning("the relay cannot publish just now: %s", error)
                    await asyncio.sleep(RETRY_S)
                    return [*relay.on_published(False)]
                self.published += len(published)
                if len(published) >= BUSY_MIN:
                    await asyncio.sleep(BUSY_S)
                return [*relay.on_published(True)]
            case SaveMark(group):
                await self._log.append(group)
                return []

    async def stop(self) -> None:
        await self._tasks.stop()
        if self.relay is not None:
            try:
                await self._log.append(self.relay.mark())
            except LogError as error:
                log.warning("the relay's position was not stored: %s", error)
