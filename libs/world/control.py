"""The control plane in the world: a service host and the relay as processes that may die and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libs.common.bus.permissions import matches
from libs.common.host.core import Host
from libs.common.host.effects import Answer, Append, Bug, Effect, Publish, Read, ReadStream, SaveMark, SendOrder
from libs.common.host.relay import Relay
from libs.common.host.service import Service
from libs.common.log import Head, LogError, Unavailable
from libs.common.messages import Command, Delivered, Recorded, Reply
from libs.common.steady import Steady
from libs.world.branch import branched
from libs.world.clocks import Clock
from libs.world.decoding import registries
from proto.node import Heard
from proto.upcasts import DOWNCASTS

if TYPE_CHECKING:
    from libs.world.world import World

TICK_US = 1_000_000
POLL_US = 500_000
AWAY_US = 500_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A host that has folded the log up to a position, and has begun nothing. It is never run: branches of it are."""

    incarnation: int
    position: int
    host: Host


class HostProcess:
    """One service. `crash` forgets all memory; `begin` folds the log again."""

    def __init__(self, world: World, service: Service, name: str = "") -> None:
        self.world = world
        self.service = service
        self.name = name or service.name
        self.host: Host | None = None
        self.clock = Clock(world.net)
        self.steady = Steady()
        self.dark = False
        """it reaches neither log nor bus"""
        self.life = 0
        self._ids = 0
        self._polls = False
        self._listens: dict[str, bool] = {}
        self._snapshot: Kept | None = None

    @property
    def now_us(self) -> int:
        """What it takes the time of day to be."""
        return self.steady.at(self.clock.wall_us)

    def begin(self) -> None:
        world = self.world
        if self.host is not None:
            return
        if not world.log.available or self.dark:
            world.net.after(AWAY_US, self.begin)
            return
        self.life += 1
        head = world.log.head_now()
        self.steady = Steady(head.at_us)
        self.host = host = self._folded(head)
        self._do(host.ready(head.incarnation, self.now_us))
        self._polls = False
        self.later(TICK_US, self._tick)
        self.wake()

    def _folded(self, head: Head) -> Host:
        """From the snapshot, where there is one of this incarnation, and the rest of the log."""
        log, kept = self.world.log, self._snapshot
        if kept is not None and kept.incarnation == head.incarnation:
            host, start = branched(kept.host), kept.position
        else:
            host, start = Host(self.service, downcasts=DOWNCASTS, registries=registries(self.service)), 0
        reacted = log.consumer_position_now(host.reactions.consumer)
        host.fold(log.read_all_now(start, head.position), max(reacted, start))
        return host

    def keep(self) -> None:
        """A snapshot of what the log has told so far, for those that crash later. Only while this process has nothing to do."""
        head, live = self.world.log.head_now(), self._host()
        if not live.idle() or live.reactions.position != head.position:
            raise AssertionError(f"{self.name} has work left: it cannot be kept")
        host = Host(self.service, downcasts=DOWNCASTS, registries=registries(self.service))
        host.fold(self.world.log.read_all_now(0, head.position), head.position)
        self._snapshot = Kept(head.incarnation, head.position, host)

    def started(self, kept: Kept) -> None:
        """Its next start folds from there."""
        self._snapshot = kept

    def crash(self) -> None:
        self.host = None
        self.life += 1
        self.world.net.resume(self.name)

    # --- in -------------------------------------------------------------------------------------------------------

    def command(self, data: bytes, node: str, stream: str, answer: Callable[[Reply], None]) -> None:
        if self.host is not None:
            self._do(self.host.on_command(answer, data, self.now_us, node, stream))

    def listens(self, subject: str) -> bool:
        """To this telemetry."""
        if (known := self._listens.get(subject)) is None:
            known = self._listens[subject] = any(matches(pattern, subject) for pattern in self.service.telemetry)
        return known

    def telemetry(self, subject: str, data: bytes) -> None:
        if self.host is not None:
            self.host.on_telemetry(subject, data, self.now_us)

    def delivered(self, delivered: Delivered) -> None:
        """From the bus; what is missing before it comes from the log."""
        host = self.host
        if host is None or self.dark or delivered.incarnation != host.incarnation:
            return
        recorded, expected = delivered.event, host.reactions.next_position
        if recorded.position > expected:
            try:
                missing = min(recorded.position - expected, 500)
                self._hear(self.world.log.read_all_now(expected - 1, missing))
            except LogError:
                return
            expected = host.reactions.next_position
        if recorded.position == expected:
            self._hear([recorded])

    def _hear(self, records: Sequence[Recorded]) -> None:
        assert self.host is not None
        if records:
            self.steady.heard(records[-1].at_us)
        self._do(self.host.on_events(records, self.now_us))

    def wake(self) -> None:
        """Something was committed that it has not heard of: unless the bus tells it, it looks by itself, as the driver does."""
        if self.host is not None and not self._polls:
            self._polls = True
            self.later(POLL_US, self._poll)

    def _poll(self) -> None:
        assert self.host is not None
        self._polls = False
        try:
            self._check_light()
            self._hear(self.world.log.read_all_now(self.host.reactions.next_position - 1, 500))
            behind = self.world.log.head_now().position >= self.host.reactions.next_position
        except LogError:
            behind = True
        if behind:
            self.wake()

    def _tick(self) -> None:
        assert self.host is not None
        self._do(self.host.on_tick(self.now_us, self._new_ids()))
        if self.world.random.random() < 0.2:
            self._do(self.host.on_mark())
        self.later(TICK_US, self._tick)

    def own(self, *commands: Command) -> None:
        """What this process itself has found out."""
        if self.host is not None:
            self._do(self.host.on_own(commands, self.now_us, self._new_ids()))

    def _new_ids(self) -> Iterator[str]:
        while True:
            self._ids += 1
            yield f"{self.name}-tick-{self.life}-{self._ids}"

    # --- out ------------------------------------------------------------------------------------------------------

    def later(self, delay_us: int, thunk: Callable[[], None]) -> None:
        """Only in this life."""
        life = self.life
        self.world.net.after(delay_us, lambda: thunk() if self.life == life else None, self.name)

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append():
                    self._append(effect)
                case Answer(ref, reply):
                    assert callable(ref)
                    ref(reply)
                case ReadStream(stream, after):
                    self.later(self.delay_us(), lambda s=stream, a=after: self._read(s, a))  # type: ignore[misc]
                case SendOrder():
                    self._order(effect)
                case Bug(where, error):
                    raise AssertionError(f"bug in {where}") from error

    def delay_us(self) -> int:
        return self.world.net.between(*self.world.net.weather.commit_us)

    def _append(self, effect: Append) -> None:
        """The commit happens whether or not the process lives to hear of it."""
        world, life, log = self.world, self.life, self.world.log

        def commit() -> None:
            try:
                self._check_light()
                result = log.append_now(effect.group)
            except LogError as error:
                said = str(error)
                self._if(life, lambda: self._host().on_append_failed(effect.token, said), AWAY_US)
                return
            if result.positions:
                world.committed()
            self._if(life, lambda: self._host().on_appended(effect.token, result), self.delay_us())

        world.net.after(self.delay_us(), commit)

    def _if(self, life: int, step: Callable[[], list[Effect]], delay_us: int) -> None:
        self.world.net.after(delay_us, lambda: self._do(step()) if self.life == life else None, self.name)

    def _host(self) -> Host:
        assert self.host is not None
        return self.host

    def _read(self, stream: str, after: int) -> None:
        try:
            self._check_light()
            records = self.world.log.read_stream_now(stream, after, 10_000)
        except LogError:
            self.later(AWAY_US, lambda: self._read(stream, after))
            return
        self._do(self._host().on_stream_read(stream, records))

    def _check_light(self) -> None:
        if self.dark:
            raise Unavailable("the log does not answer this process")

    def _order(self, effect: SendOrder) -> None:
        life = self.life

        def heard(answer: Heard) -> None:
            def back() -> None:
                if self.life == life and answer.accepted:
                    self._host().on_heard(effect.stream, effect.version, effect.node)

            self.world.net.send(effect.node, "control", back, self.name)

        agent = self.world.agents.get(effect.node)
        if agent is not None:
            self.world.net.send("control", effect.node, lambda: agent.order(effect.data, heard), agent.owner)


class RelayProcess:
    """Publishes the log to the services, at least once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life = 0
        self.up = False
        self._idle: Relay | None = None
        """it has published all there is, and waits for the head to move"""

    def begin(self) -> None:
        if self.up:
            return
        if not self.world.log.available:
            self.world.net.after(AWAY_US, self.begin)
            return
        self.life += 1
        self.up = True
        head = self.world.log.head_now()
        self._run(Relay(head.incarnation, self.world.log.consumer_position_now("relay")))

    def crash(self) -> None:
        self.up = False
        self._idle = None
        self.life += 1
        self.world.net.resume("relay")

    def wake(self) -> None:
        """Something was committed."""
        if (relay := self._idle) is not None:
            self._idle = None
            self._next(relay, [relay.start()], 500)

    def _run(self, relay: Relay) -> None:
        self._step(relay, relay.start())

    def _step(self, relay: Relay, step: Read | Publish | SaveMark) -> None:
        world = self.world
        try:
            match step:
                case Read(after, limit):
                    records = world.log.read_all_now(after, limit)
                    if records:
                        self._next(relay, [relay.on_records(records)], 500)
                    else:
                        self._idle = relay
                case Publish(events):
                    for published in events:
                        world.publish(published)
                    self._next(relay, relay.on_published(True), 300)
                case SaveMark(group):
                    world.log.append_now(group)
        except LogError:
            self._next(relay, [relay.start()], AWAY_US)

    def _next(self, relay: Relay, steps: Sequence[Read | Publish | SaveMark], delay_us: int) -> None:
        life = self.life
        for step in steps:
            run = lambda s=step: self._step(relay, s) if self.life == life else None  # noqa: E731
            self.world.net.after(delay_us, run, "relay")
