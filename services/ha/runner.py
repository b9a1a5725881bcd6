"""The asyncio around the grantor: its lock, its clock, what comes and goes on the bus.

lease.<node>          AskGrant, request and reply; every ha process hears it, the one that leads answers
tel.<node>.leases     LeaseBeat
ask.<node>.lease      AskRecords, AskLetter, AskProbe

One loop checks the lock, another lets the grantor act; what the grantor wants in the log goes the way of the service's own
commands (Runner.say), and what became of it is seen in the service's states.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from libs.common.bus import BusError, Incoming
from libs.common.host.beside import Place
from libs.common.host.tasks import Tasks, answer
from libs.common.log.lock import SessionLock
from libs.common.messages import encode
from proto.fence import OrderFence
from proto.lease import AskGrant, AskProbe, LeaseBeat, Probes, Records
from services.ha.effects import Ask, Effect, FenceNode, Member, Reply, Tell
from services.ha.grantor import TICK_US, Grantor
from services.ha.picture import LEASE, MAIN, members, picture
from services.ha.views import Views

log = logging.getLogger(__name__)

LOCK = 0x6173762D6861  # `asv-ha`
CHECK_S = 0.25
"""between two checks of the lock; the grantor signs for 1 s after it sent one"""
CHECK_S_MAX = 3.0
"""for an answer. One that takes longer than a second keeps the lock, and nothing is signed meanwhile"""
ASK_S = 1.5
"""an agent that reads disks or waits for a peer has a second itself"""

_grant = msgspec.msgpack.Decoder(AskGrant).decode
_beat = msgspec.msgpack.Decoder(LeaseBeat).decode
_records = msgspec.msgpack.Decoder(Records).decode
_probes = msgspec.msgpack.Decoder(Probes).decode


def monotonic_us() -> int:
    """Also while the machine sleeps: a grantor that slept has missed what it would have heard."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class GrantorRunner:
    """Beside the service in each process of ha; one of them leads."""

    def __init__(self, place: Place, lock: SessionLock, now_us: Callable[[], int] = monotonic_us) -> None:
        self._place = place
        self._lock = lock
        self._now_us = now_us
        self._tasks = Tasks()
        self._members: Mapping[str, Member] = {}
        self._version = (-1, -1)
        self._stamp = -1
        self._changes = (-1, -1, -1)
        self.grantor = Grantor(f"{place.name}-{place.clock.new_id()[-12:]}")

    async def start(self) -> None:
        """Raises BusError."""
        bus = self._place.bus
        self._see()
        await bus.serve("lease.*", self._asked)
        await bus.serve("tel.*.leases", self._beat)
        self._tasks.start(self._check(), "ha lock")
        self._tasks.start(self._tick(), "ha grantor")

    async def stop(self) -> None:
        """Its lock is free at once; its successor waits out what it has granted."""
        self.grantor.unlocked()
        await self._tasks.stop()
        await self._lock.close()

    def leads(self) -> bool:
        return self.grantor.leads(self._now_us())

    # --- in -------------------------------------------------------------------------------------------------------

    @property
    def _views(self) -> Views:
        views: Views = self._place.runner.host.views
        return views

    def _asked(self, message: Incoming) -> None:
        ask = _grant(message.data)
        if message.subject != f"lease.{ask.node}":
            return
        self._views.nodes.asked(ask.node, self._place.clock.now_us())
        self._see()
        self._do(self.grantor.ask(self._now_us(), message, ask))

    def _beat(self, message: Incoming) -> None:
        self.grantor.beat(self._now_us(), message.subject.split(".")[1], _beat(message.data))

    async def _check(self) -> None:
        while True:
            sent_us = self._now_us()
            if await self._lock.check(CHECK_S_MAX):
                self.grantor.locked(self._now_us(), sent_us)
            elif self.grantor.began_us is not None:
                log.warning("ha: the grantor's lock is lost")
                self.grantor.unlocked()
                continue  # after a sleep of the whole machine it is free again at once, and nodes wait for a word
            await asyncio.sleep(CHECK_S)

    async def _tick(self) -> None:
        while True:
            wall_us = self._place.clock.now_us()
            self._views.nodes.now_us = wall_us
            self._see()
            self._do(self.grantor.tick(self._now_us(), wall_us))
            await asyncio.sleep(TICK_US / 1e6)

    def _see(self) -> None:
        """What the log says by now, where that is something new."""
        version = (self._views.nodes.version, self._views.fences.version)
        if version != self._version:
            self._version, self._stamp, self._members = version, -1, members(self._views)
        slots = self._place.runner.host.slots
        if (changes := (*version, slots.changes)) == self._changes:
            return
        self._changes = changes
        own = {name: slots[name] for name in (MAIN, *(LEASE + node for node in self._members)) if name in slots}
        stamp = sum(slot.version for slot in own.values())
        if stamp != self._stamp:
            self._stamp = stamp
            states = {name: slot.state for name, slot in own.items() if slot.version}
            self.grantor.see(picture(states, self._views, self._members, self._place.runner.host.incarnation))

    # --- out ------------------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply(ref, granted):
                    self._reply(ref, encode(granted))
                case Ask():
                    self._tasks.start(self._ask(effect))
                case Tell(command):
                    self._place.runner.say(command)
                case FenceNode():
                    self._place.runner.say(self._order(effect))

    def _order(self, fence: FenceNode) -> OrderFence:
        return OrderFence(
            node=fence.node, epoch=fence.epoch, boot_id=fence.boot_id, now_us=self._place.clock.now_us(),
            sentence=f"{fence.node} is suspected in epoch {fence.epoch}",
        )  # fmt: skip

    def _reply(self, ref: object, data: bytes) -> None:
        message: Incoming = ref  # type: ignore[assignment]
        if not message.respond_now(data):
            self._tasks.start(answer(message, data))

    async def _ask(self, ask: Ask) -> None:
        sent_us = self._place.clock.now_us()
        try:
            data = await self._place.bus.request(f"ask.{ask.node}.lease", encode(ask.message), timeout_s=ASK_S)
            heard: Records | Probes = _probes(data) if isinstance(ask.message, AskProbe) else _records(data)
        except (BusError, msgspec.DecodeError) as error:
            log.debug("ha: %s did not answer: %s", ask.node, error)
            self.grantor.unanswered(ask.id)
            return
        if isinstance(heard, Probes):
            for node in heard.reached:
                self._views.nodes.reached(node, sent_us)
        self.grantor.answered(self._now_us(), ask.id, heard)
