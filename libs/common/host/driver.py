"""The asyncio around a Host: carries messages between it, the bus and the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from libs.common.bus import Bus, BusError, Feed, Incoming
from libs.common.bus.permissions import consumer
from libs.common.clock import Clock
from libs.common.host import digests, figures, snapshots, status
from libs.common.host.core import Host
from libs.common.host.delivered import FETCH_MAX, close_holes, live
from libs.common.host.effects import Answer, Append, Bug, Effect, ReadStream, SendOrder
from libs.common.host.service import Service
from libs.common.host.tasks import Tasks, answer
from libs.common.host.versions import release_for
from libs.common.log import Appended, EventLog, Fenced, LogError
from libs.common.loop import undisturbed
from libs.common.messages import Command, Recorded, encode
from libs.common.registry import Downcast, TooNew, Upcast
from libs.common.steady import SteadyClock
from libs.common.telemetry import span

log = logging.getLogger(__name__)

TICK_S = 1.0
MARK_TICKS = 5
SNAPSHOT_EVERY = 10_000
"""events between two snapshots; a start folds at most so many, and those of the last seconds"""
FETCH_S = 0.5
"""how long a fetch waits for published events; thereafter the log itself is asked, so that a deaf bus costs no more than this"""
ORDER_TIMEOUT_S = 2.0
RETRY_S = 0.5

_heard = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Runner:
    """One service on one log and bus. `start` returns when it is folded and serves; `stop` drains."""

    def __init__(
        self, service: Service, events: EventLog, bus: Bus, clock: Clock,
        upcasts: dict[tuple[str, int], Upcast] | None = None, process: str = "",
        downcasts: dict[tuple[str, int], Downcast] | None = None,
    ) -> None:  # fmt: skip
        self.host = Host(service, upcasts, downcasts)
        self._log = events
        self._bus = bus
        self.clock = SteadyClock(clock)
        self._tasks = Tasks()
        self._feed: Feed | None = None
        self._room = asyncio.Event()
        self._snapped = 0
        self._process = process or service.name
        self.counts = figures.Counts()
        self.fenced = asyncio.Event()
        """this process is of the past and is to end: the log has another incarnation, so that one is started that folds the new; or
        it holds what only a later release can read"""
        self.why: LogError | None = None
        """why it is fenced"""

    @property
    def name(self) -> str:
        return self.host.service.name

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fold the log, then serve. Raises LogError (also where only a later release can read the log: it says which), BusError."""
        try:
            await self._fold()
        except TooNew as error:
            raise LogError(f"{self.name}: {release_for(error, self.host.writer.protocol)}") from error
        await self._serve()

    async def _fold(self) -> None:
        host = self.host
        head = await self._log.head()
        self.clock.heard(head.at_us)
        reacted = await self._log.consumer_position(host.reactions.consumer)
        after = snapshots.restore(host, await self._log.load_snapshot(host.service.name))
        with undisturbed(lasting=True):
            async for chunk in self._log.replay(after, head.position):
                host.fold(chunk, reacted, owned=True)
        self._snapped = after
        self._do(host.ready(head.incarnation, self.clock.now_us()))

    async def _serve(self) -> None:
        host = self.host
        name = host.service.name
        self._feed = await self._bus.feed(consumer(host.reactions.consumer, self._process))
        await self._bus.serve(f"cmd.{name}.*", self._command, queue=name)
        await self._bus.serve(f"fact.*.{name}", self._command, queue=name)
        for subject in host.service.telemetry:
            await self._bus.serve(subject, self._telemetry)
        self._tasks.start(self._follow(), f"{name} follow")
        self._tasks.start(self._tick(), f"{name} tick")

    async def stop(self) -> None:
        """Finish what is under way, store the position, stop. The bus is to be drained beforehand, so that nothing new comes."""
        for _ in range(200):
            if self.host.idle():
                break
            await asyncio.sleep(0.01)  # bounded; not a test: the commits under way are a few milliseconds from done
        group = self.host.reactions.mark()
        if group is not None:
            try:
                await self._log.append(group)
            except LogError as error:
                log.warning("the consumer position was not stored: %s", error)
        await self._tasks.stop()
        if self._feed is not None:
            await self._feed.close()

    def question(self, what: str, data: bytes) -> msgspec.Struct:
        """Answers `query.<service>.<what>`: `status`, `metrics` and `digests` here, all else by the service's own query.
        Raises KeyError."""
        if what == "status":
            return status.of(self.host, self.counts.commands, self.counts.bugs)
        if what == "metrics":
            return figures.of_service(self._process, self.host, self.counts)
        if what == "digests":
            return digests.answer(self.host, data)
        answer: msgspec.Struct = self.host.service.query(what, data, self.host.states(), self.host.views)
        return answer

    def say(self, *commands: Command) -> None:
        """This service's own commands, ticks among them, at once: what its process has found out. In the event loop only."""
        self._do(self.host.on_own(commands, self.clock.now_us(), self._ids()))

    # --- in -------------------------------------------------------------------------------------------------------

    def _command(self, message: Incoming) -> None:
        first, second, *rest = message.subject.split(".")
        node = second if first == "fact" else ""
        stream = rest[0] if first == "cmd" and rest else ""
        self.counts.commands += 1
        self._do(self.host.on_command(message, message.data, self.clock.now_us(), node, stream))

    def _telemetry(self, message: Incoming) -> None:
        self.host.on_telemetry(message.subject, message.data, self.clock.now_us())

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            self._do(self.host.on_tick(self.clock.now_us(), self._ids()))
            if ticks % MARK_TICKS == 0:
                self._do(self.host.on_mark())
                await self._look()
                if self.host.reactions.position - self._snapped >= SNAPSHOT_EVERY:
                    await self._snap()

    async def _look(self) -> None:
        """Is it still the log that was folded?"""
        try:
            await self._log.head()
        except Fenced as error:
            self._fence(error)
        except LogError as error:
            log.debug("%s: no look at the log just now: %s", self.name, error)

    def _fence(self, error: LogError | TooNew) -> None:
        if not self.fenced.is_set():
            if isinstance(error, TooNew):
                error = LogError(f"{self.name}: {release_for(error, self.host.writer.protocol)}")
            log.error("%s ends: %s", self.name, error)
            self.why = error
            self.fenced.set()

    async def _snap(self) -> None:
        """Save a snapshot where one can be taken just now; a start without one only takes longer."""
        snapshot = snapshots.take(self.host)
        if snapshot is None:
            return
        try:
            await self._log.save_snapshot(snapshot)
            self._snapped = snapshot.position
        except LogError as error:
            log.warning("%s: no snapshot just now: %s", self.host.service.name, error)

    def _ids(self) -> Iterator[str]:
        while True:
            yield self.clock.new_id()

    async def _follow(self) -> None:
        """Events in log order, live from the bus; what is missing there comes from the log."""
        while True:
            try:
                if self.host.room < FETCH_MAX:
                    self._room.clear()
                    await asyncio.wait_for(self._room.wait(), TICK_S)
                records = await self._fetch()
                if records:
                    self.clock.heard(records[-1].at_us)
                self._do(self.host.on_events(records, self.clock.now_us()))
            except TimeoutError:
                continue
            except (Fenced, TooNew) as error:
                self._fence(error)
                return
            except (BusError, LogError) as error:
                log.warning("%s cannot follow the log just now: %s", self.host.service.name, error)
                await asyncio.sleep(RETRY_S)

    async def _fetch(self) -> list[Recorded]:
        assert self._feed is not None
        try:
            payloads = await self._feed.fetch(FETCH_MAX, FETCH_S)
        except BusError as error:
            log.debug("the bus gives no events: %s", error)
            payloads = []
        position = self.host.reactions.next_position
        if not payloads:
            return await self._log.read_all(position - 1, FETCH_MAX)
        records = live(payloads, self.host.incarnation, position)
        await self._feed.ack()
        return await close_holes(self._log, position, records)

    # --- out ------------------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append():
                    self._append(effect)
                case Answer(ref, reply):
                    self.counts.replies[reply.status] += 1
                    self._answer(ref, encode(reply))
                case ReadStream():
                    self._tasks.start(self._read_stream(effect))
                case SendOrder():
                    self._tasks.start(self._order(effect))
                case Bug(where, error):
                    self.counts.bugs += 1
                    log.error("bug in %s", where, exc_info=error)
        self._room.set()

    def _answer(self, message: Any, data: bytes) -> None:
        if not message.respond_now(data):
            self._tasks.start(answer(message, data))

    def _append(self, effect: Append) -> None:
        if effect.trace:
            self._tasks.start(self._append_traced(effect))
            return
        try:
            self._log.submit(effect.group, partial(self._appended, effect, time.perf_counter()))
        except LogError as error:
            asyncio.get_running_loop().call_soon(self._appended, effect, time.perf_counter(), error)

    async def _append_traced(self, effect: Append) -> None:
        outcome: Appended | LogError
        begun = time.perf_counter()
        with span(f"{self.host.service.name} {effect.what}", effect.trace, units=len(effect.group.units)):
            try:
                outcome = await self._log.append(effect.group)
            except LogError as error:
                outcome = error
        self._appended(effect, begun, outcome)

    def _appended(self, effect: Append, begun: float, outcome: Appended | LogError) -> None:
        self.counts.appended(effect.what, time.perf_counter() - begun, outcome)
        token = effect.token
        if isinstance(outcome, LogError):
            if isinstance(outcome, Fenced):
                self._fence(outcome)
            said = f"the log cannot be written just now: {outcome}"
            self._do(self.host.on_append_failed(token, said))
        else:
            self._do(self.host.on_appended(token, outcome))

    async def _read_stream(self, effect: ReadStream) -> None:
        records: list[Recorded] = []
        while True:
            try:
                after = records[-1].version if records else effect.after
                more = await self._log.read_stream(effect.stream, after)
            except LogError as error:
                log.warning("stream %s cannot be read just now: %s", effect.stream, error)
                await asyncio.sleep(RETRY_S)
                continue
            records += more
            if not more:
                break
        try:
            self._do(self.host.on_stream_read(effect.stream, records))
        except TooNew as error:
            self._fence(error)

    async def _order(self, effect: SendOrder) -> None:
        self.counts.orders += 1
        try:
            with span(f"order {effect.node}", effect.trace, stream=effect.stream):
                data = await self._bus.request(f"order.{effect.node}", effect.data, timeout_s=ORDER_TIMEOUT_S)
        except BusError as error:
            log.debug("order for %s to %s unheard: %s", effect.stream, effect.node, error)
            return
        heard = _heard(data)
        if heard.get("accepted"):
            self.host.on_heard(effect.stream, effect.version, effect.node)
        else:
            log.info("order for %s refused by %s: %s", effect.stream, effect.node, heard.get("sentence"))
