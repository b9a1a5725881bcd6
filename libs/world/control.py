"""The control plane in the world: a service host and the relay as processes that may die and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from libs.common.bus.permissions import matches
from libs.common.host.core import Host
from libs.common.host.effects import Answer, Append, Bug, Effect, Publish, Read, ReadStream, SaveMark, SendOrder
from libs.common.host.relay import Relay
from libs.common.host.service import Service
from libs.common.log import LogError
from libs.common.messages import Delivered, Recorded, Reply
from proto.node import Heard

if TYPE_CHECKING:
    from libs.world.world import World

TICK_US = 1_000_000
POLL_US = 500_000
AWAY_US = 500_000


class HostProcess:
    """One service. `crash` forgets all memory; `begin` folds the log again."""

    def __init__(self, world: World, service: Service) -> None:
        self.world = world
        self.service = service
        self.name = service.name
        self.host: Host | None = None
        self.life = 0
        self._ids = 0

    def begin(self) -> None:
        world = self.world
        if self.host is not None:
            return
        if not world.log.available:
            world.net.after(AWAY_US, self.begin)
            return
        self.life += 1
        host = Host(self.service)
        head = world.log.head_now()
        reacted = world.log.consumer_position_now(host.reactions.consumer)
        host.fold(world.log.read_all_now(0, head.position), reacted)
        self.host = host
        self._do(host.ready(head.incarnation, world.net.now_us))
        self._later(TICK_US, self._tick)
        self._later(POLL_US, self._poll)

    def crash(self) -> None:
        self.host = None
        self.life += 1

    # --- in -------------------------------------------------------------------------------------------------------

    def command(self, data: bytes, node: str, stream: str, answer: Callable[[Reply], None]) -> None:
        if self.host is not None:
            self._do(self.host.on_command(answer, data, self.world.net.now_us, node, stream))

    def telemetry(self, subject: str, data: bytes) -> None:
        if self.host is not None and any(matches(pattern, subject) for pattern in self.service.telemetry):
            self.host.on_telemetry(subject, data, self.world.net.now_us)

    def delivered(self, delivered: Delivered) -> None:
        """From the bus; what is missing before it comes from the log."""
        if self.host is None or delivered.incarnation != self.host.incarnation:
            return
        recorded = delivered.event
        try:
            self._hear(self.world.log.read_all_now(self.host.reactions.next_position - 1, self._missing(recorded)))
        except LogError:
            return
        if recorded.position <= self.host.reactions.next_position:
            self._hear([recorded])

    def _missing(self, recorded: Recorded) -> int:
        assert self.host is not None
        return max(0, min(recorded.position - self.host.reactions.next_position, 500))

    def _hear(self, records: Sequence[Recorded]) -> None:
        assert self.host is not None
        self._do(self.host.on_events(records, self.world.net.now_us))

    def _poll(self) -> None:
        """The fall-back of a deaf bus, as the driver does it."""
        assert self.host is not None
        try:
            self._hear(self.world.log.read_all_now(self.host.reactions.next_position - 1, 500))
        except LogError:
            pass
        self._later(POLL_US, self._poll)

    def _tick(self) -> None:
        assert self.host is not None
        self._do(self.host.on_tick(self.world.net.now_us, self._new_ids()))
        if self.world.random.random() < 0.2:
            self._do(self.host.on_mark())
        self._later(TICK_US, self._tick)

    def _new_ids(self) -> Iterator[str]:
        while True:
            self._ids += 1
            yield f"{self.name}-tick-{self.life}-{self._ids}"

    # --- out ------------------------------------------------------------------------------------------------------

    def _later(self, delay_us: int, thunk: Callable[[], None]) -> None:
        """Only in this life."""
        life = self.life
        self.world.net.after(delay_us, lambda: thunk() if self.life == life else None)

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append():
                    self._append(effect)
                case Answer(ref, reply):
                    assert callable(ref)
                    ref(reply)
                case ReadStream(stream, after):
                    self._later(self._delay_us(), lambda s=stream, a=after: self._read(s, a))  # type: ignore[misc]
                case SendOrder():
                    self._order(effect)
                case Bug(where, error):
                    raise AssertionError(f"bug in {where}") from error

    def _delay_us(self) -> int:
        return self.world.random.randint(*self.world.net.weather.commit_us)

    def _append(self, effect: Append) -> None:
        """The commit happens whether or not the process lives to hear of it."""
        world, life, log = self.world, self.life, self.world.log

        def commit() -> None:
            try:
                result = log.append_now(effect.group)
            except LogError as error:
                said = str(error)
                self._if(life, lambda: self._host().on_append_failed(effect.token, said), AWAY_US)
                return
            self._if(life, lambda: self._host().on_appended(effect.token, result), self._delay_us())

        world.net.after(self._delay_us(), commit)

    def _if(self, life: int, step: Callable[[], list[Effect]], delay_us: int) -> None:
        self.world.net.after(delay_us, lambda: self._do(step()) if self.life == life else None)

    def _host(self) -> Host:
        assert self.host is not None
        return self.host

    def _read(self, stream: str, after: int) -> None:
        try:
            records = self.world.log.read_stream_now(stream, after, 10_000)
        except LogError:
            self._later(AWAY_US, lambda: self._read(stream, after))
            return
        self._do(self._host().on_stream_read(stream, records))

    def _order(self, effect: SendOrder) -> None:
        life = self.life

        def heard(answer: Heard) -> None:
            def back() -> None:
                if self.life == life and answer.accepted:
                    self._host().on_heard(effect.stream, effect.version, effect.node)

            self.world.net.send(effect.node, "control", back)

        agent = self.world.agents.get(effect.node)
        if agent is not None:
            self.world.net.send("control", effect.node, lambda: agent.order(effect.data, heard))


class RelayProcess:
    """Publishes the log to the services, at least once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life = 0
        self.up = False

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
        self.life += 1

    def _run(self, relay: Relay) -> None:
        self._step(relay, relay.start())

    def _step(self, relay: Relay, step: Read | Publish | SaveMark) -> None:
        world = self.world
        try:
            match step:
                case Read(after, limit):
                    records = world.log.read_all_now(after, limit)
                    following = [relay.on_records(records)]
                    self._next(relay, following, 500 if records else 10_000)
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
            self.world.net.after(delay_us, run)
