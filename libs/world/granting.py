"""ha in the world: the service's host, and in the same process the grantor, with a lock in Postgres that may be lost unnoticed.

There may be several such processes (`ha`, `ha2`): one has the lock, the others wait for it. Each has a machine of its own, with a
monotonic clock that drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libs.common.host.service import Service
from libs.common.messages import encode
from libs.world.control import HostProcess
from libs.world.fencing import Hands
from proto.fence import OrderFence
from proto.lease import AskGrant, Granted, LeaseBeat, Probes, Records
from services.ha.effects import Ask, Effect, FenceNode, Member, Reply, Tell
from services.ha.grantor import LATE_US, Grantor
from services.ha.picture import LEASE, MAIN, members, picture
from services.ha.views import Views

if TYPE_CHECKING:
    from libs.world.world import World

CHECK_US = 400_000
"""between two checks of its lock"""
ANSWER_US_MAX = 1_500_000
PAUSE_US = LATE_US - 10_000
"""between two ticks, where nothing depends on how soon it concludes: less than what the grantor takes for being late itself"""
FREE_US = 300_000
"""how long the server takes to notice that whoever had the lock is gone"""


@dataclass(slots=True)
class Lock:
    """A session's lock in Postgres. holder: whose session has it, as (process, its life)."""

    holder: tuple[str, int] | None = None

    def take(self, who: tuple[str, int]) -> bool:
        """Whether it is had now."""
        if self.holder is None:
            self.holder = who
        return self.holder == who

    def free(self, who: tuple[str, int]) -> None:
        if self.holder == who:
            self.holder = None


class HaProcess(HostProcess):
    def __init__(self, world: World, service: Service, name: str = "ha") -> None:
        super().__init__(world, service, name)
        self.grantor: Grantor | None = None
        self._session = 0
        self._changes = self._seen = (0, 0, 0)
        self._members: Mapping[str, Member] = {}
        self._own: tuple[str, ...] = ()

    # --- life -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        if self.host is not None or not self.world.log.available or self.dark:
            super().begin()
            return
        super().begin()
        self.grantor = Grantor(f"{self.name}-{self.life}")
        self._session += 1
        self._check()
        self._grantor_tick()
        if self.world.bmcs:
            Hands(self).begin()

    def crash(self) -> None:
        if self.host is not None:
            session = (self.name, self._session)
            self.world.net.after(FREE_US, lambda: self.world.paths.lock.free(session))
        self.grantor = None
        super().crash()

    @property
    def mono_us(self) -> int:
        return self.clock.boot_us

    @property
    def leads(self) -> bool:
        return self._grantor().leads(self.mono_us)

    # --- its lock ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Asks the server; what comes back says so as of when it was asked."""
        sent_us, session, life = self.mono_us, (self.name, self._session), self.life

        def served() -> None:
            if self.life != life:
                return
            alive = self.world.log.available and not self.dark
            had = alive and self.world.paths.lock.take(session)
            self.later(self.delay_us(), lambda: heard(alive, had))

        def heard(alive: bool, had: bool) -> None:
            grantor = self._grantor()
            if had:
                grantor.locked(self.mono_us, sent_us)
            elif alive or grantor.began_us is None or self.mono_us - sent_us > ANSWER_US_MAX:
                self._lost(grantor)

        self.world.net.after(self.delay_us(), served)
        self.later(CHECK_US, self._check)

    def _lost(self, grantor: Grantor) -> None:
        """Another session, for the next time."""
        if grantor.began_us is not None:
            self._session += 1
        grantor.unlocked()

    # --- in -------------------------------------------------------------------------------------------------------

    def asked(self, question: AskGrant, reply: Callable[[Granted], None]) -> None:
        if self.grantor is not None:
            self.views.nodes.asked(question.node, self.now_us)
            self._see()
            self._carry(self.grantor.ask(self.mono_us, reply, question))

    def beaten(self, witness: str, beat: LeaseBeat) -> None:
        if self.grantor is not None:
            self.telemetry(f"tel.{witness}.leases", encode(beat))
            self.grantor.beat(self.mono_us, witness, beat)

    def _grantor_tick(self) -> None:
        grantor = self._grantor()
        self.views.nodes.now_us = self.now_us
        self._see()
        self._carry(grantor.tick(self.mono_us, self.now_us))
        self.later(self.clock.world_us(self.world.grantor_us), self._grantor_tick)

    def _see(self) -> None:
        """What the log says by now, where that is something new (as services/ha/runner.py does it)."""
        slots, nodes, fences = self._host().slots, self.views.nodes, self.views.fences
        version = nodes.version + fences.version
        if (changes := (self.life, version, slots.changes)) == self._changes:
            return
        self._changes = changes
        if (self.life, version) != self._seen[:2]:
            self._members = members(self.views)
            self._own = (MAIN, *(LEASE + node for node in nodes.members))
        own = [(name, slots[name]) for name in self._own if name in slots]
        stamp = (self.life, version, sum([slot.version for _, slot in own]))
        if stamp == self._seen:
            return
        self._seen = stamp
        states = {name: slot.state for name, slot in own if slot.version}
        self._grantor().see(picture(states, self.views, self._members, self._host().incarnation))

    @property
    def views(self) -> Views:
        views: Views = self._host().views
        return views

    # --- out ------------------------------------------------------------------------------------------------------

    def _carry(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply(ref, granted):
                    assert callable(ref)
                    ref(granted)
                case Ask():
                    self._ask(effect)
                case Tell(command):
                    self.own(command)
                case FenceNode(node, epoch, boot_id):
                    said = f"{node} is suspected in epoch {epoch}"
                    self.own(OrderFence(node=node, epoch=epoch, boot_id=boot_id, now_us=self.now_us, sentence=said))

    def _ask(self, ask: Ask) -> None:
        life, sent_us = self.life, self.now_us

        def answered(answer: Records | Probes) -> None:
            def back() -> None:
                if self.life == life and self.grantor is not None:
                    for node in answer.reached if isinstance(answer, Probes) else ():
                        self.views.nodes.reached(node, sent_us)
                    self.grantor.answered(self.mono_us, ask.id, answer)

            self.world.net.send(ask.node, "control", back, self.name)

        self.world.paths.ask_node(ask.node, ask.message, answered)
        self.later(ANSWER_US_MAX, lambda: self._grantor().unanswered(ask.id))

    def _grantor(self) -> Grantor:
        assert self.grantor is not None
        return self.grantor
