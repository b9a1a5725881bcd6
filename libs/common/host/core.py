"""The service host without I/O: commands, facts, reactions, ticks and orders of one service. A stepper.

Each call takes what came in and returns the effects that are wanted; the asyncio driver and the deterministic world both run it.

    on_command ──▶ waiting ──decide──▶ Append ──▶ on_appended ──▶ state moves, Answer, next
                      ▲                               │ Conflict: ReadStream ──▶ on_stream_read ──▶ decide again
    on_events ──▶ inbox ──react──▶ group of commands ─┘ the longest prefix holds; the rest is decided again

Memory changes only after the commit. One append per stream is under way at a time (`Slot.busy`); a group of reactions
chains decisions on a copy of the state and commits its longest prefix, with the consumer position in the same transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from libs.common.decider import Decider
from libs.common.host import intake
from libs.common.host.effects import Answer, Append, Bug, Effect, ReadStream
from libs.common.host.folding import Folding
from libs.common.host.jobs import Decision, Job, Slot, advance, decide, filled, unit
from libs.common.host.orders import OrderBook
from libs.common.host.reactions import INBOX_MAX, Reactions
from libs.common.host.service import NoViews, Service, no_react
from libs.common.host.slots import Slots
from libs.common.host.versions import Writer
from libs.common.log import Appended, Conflict, Duplicate, Group
from libs.common.messages import (
    Command,
    Envelope,
    Hello,
    Recorded,
    Reply,
    decode_meta,
    decode_reply,
    tag_of,
)
from libs.common.registry import Downcast, Registry, TooNew, Upcast

WAITING_MAX = 1000
"""commands that may wait for one stream; more are answered `unavailable`"""
ATTEMPTS_MAX = 8
"""decisions of one command that lost against another writer, before it is answered `unavailable`"""
NIL = msgspec.Raw(b"\xc0")


class Host:
    """One service."""

    def __init__(
        self, service: Service, upcasts: dict[tuple[str, int], Upcast] | None = None,
        downcasts: dict[tuple[str, int], Downcast] | None = None, registries: tuple[Registry, Registry] | None = None,
    ) -> None:  # fmt: skip
        """registries: of commands and of events, where they are there already: making them takes a while."""
        self.service = service
        self.views = service.views()
        self.slots = Slots(service.deciders)
        self.book = OrderBook()
        self.incarnation = 0
        self.now_us = 0
        self._by_command = MappingProxyType({command: decider for decider in service.deciders for command in decider.commands})
        self.commands, self.events = registries or registries_of((service,), upcasts)
        self.writer = Writer(self.events, downcasts)
        self.reactions = Reactions(service.name, self._react_to, self._decide_reaction, self.slots.of, self._blocked)
        self._deaf = service.views is NoViews and service.react is no_react
        self._waiting: dict[str, deque[Job]] = {}
        self._inflight: dict[int, tuple[Job, Decision]] = {}
        self._group = 0
        self._reading: set[str] = set()
        self._parking = intake.Parking()
        self._answered = intake.Answered()
        self._tokens = 0
        self._bugs: list[Effect] = []
        self._folding: Folding | None = None

    # --- coming up ------------------------------------------------------------------------------------------------

    def fold(self, records: Sequence[Recorded], reacted: int, *, owned: bool = False) -> None:
        """Start-up: take events of the log. The reactions to those up to position `reacted` were committed earlier, so the views
        take them too. owned: as Folding has it; the same each time. Raises TooNew."""
        folding = self._folding
        if folding is None or folding.reacted != (reacted,) or folding.views[0] is not self.views:
            folding = self._folding = Folding([self], [reacted], owned=owned)
        folding.fold(records)

    def ready(self, incarnation: int, now_us: int) -> list[Effect]:
        """Start-up is over: all of the log up to the head was folded."""
        self.incarnation, self.now_us = incarnation, now_us
        self._folding = None
        self.slots.settle()
        self.book.incarnation = incarnation
        for stream, slot in self.slots.items():
            self._order(stream, slot)
        return list(self.book.due(now_us))

    # --- commands -------------------------------------------------------------------------------------------------

    def on_command(self, ref: object, data: bytes, now_us: int, node: str = "", stream: str = "") -> list[Effect]:
        """A message on `cmd.<service>.<stream>`, or from `node` on `fact.<node>.<service>`."""
        self.now_us = now_us
        read = intake.read(self.service.name, self.commands, data, node)
        if isinstance(read, Reply):
            return [Answer(ref, read)]
        envelope, command = read
        if past := intake.of_the_past(command, self.incarnation):
            return [Answer(ref, past)]
        if isinstance(command, Hello):
            self.book.again(command.node)
            return [Answer(ref, Reply(status="accepted")), *self.book.due(now_us)]
        if seen := self._answered.get(envelope.id):
            return [Answer(ref, seen)]
        job = self._job(command, envelope, ref)
        job.raw = data
        if stream and stream != job.stream:
            return [Answer(ref, intake.invalid(f"the command is about {job.stream}, the subject about {stream}"))]
        if envelope.seen > self.reactions.taken:
            full = self._parking.park(job, now_us)
            return [] if full is None else [Answer(ref, full)]
        return self._finish(self._admit(job))

    def _unpark(self) -> list[Effect]:
        ready, late = self._parking.leave(self.reactions.taken, self.now_us)
        out: list[Effect] = []
        for job in late:
            said = f"{self.service.name} has not heard of the log's latest events yet"
            self._answer(job, Reply(status="unavailable", reason="BEHIND", sentence=said, remedy="ask again"), out)
        for job in ready:
            out += self._admit(job)
        return out

    def _job(self, command: Command, envelope: Envelope, ref: object, cause: Recorded | None = None) -> Job:
        decider: Decider[Any, Any, Any] = self._by_command[type(command)]
        if not envelope.correlation:
            envelope = msgspec.structs.replace(envelope, correlation=envelope.id)
        return Job(envelope, command, decider, decider.stream(command), ref, cause)

    def _admit(self, job: Job) -> list[Effect]:
        waiting = self._waiting.setdefault(job.stream, deque())
        if len(waiting) >= WAITING_MAX:
            full = f"{WAITING_MAX} commands wait for {job.stream}"
            return [Answer(job.ref, Reply(status="unavailable", reason="BUSY", sentence=full))]
        waiting.append(job)
        return self._pump(job.stream)

    def _pump(self, stream: str) -> list[Effect]:
        """Decide what waits for this stream until one decision has to be appended."""
        out: list[Effect] = []
        waiting = self._waiting.get(stream)
        while waiting:
            if self._blocked(stream):
                return out
            slot = self.slots.of(stream)
            job = waiting.popleft()
            decision = self._decide(job, slot)
            if decision.silent:
                self._answer(job, decision.reply, out)
                continue
            slot.busy = True
            token = self._token()
            self._inflight[token] = (job, decision)
            out.append(Append(token, Group((unit(job, decision),)), tag_of(type(job.command)), job.envelope.trace))
        self._waiting.pop(stream, None)
        return out

    def _decide(self, job: Job, slot: Slot) -> Decision:
        try:
            command = filled(job.command, self.incarnation)
            return decide(job, self.service.enrich(command, self.views, self.now_us), slot, self.writer)
        except Exception as error:
            self._bugs.append(Bug(f"{self.service.name}: {tag_of(type(job.command))} on {job.stream}", error))
            reply = Reply(status="unavailable", reason="INTERNAL", sentence=f"internal error: {error!r}")
            return Decision(slot.version, (), (), reply, None)

    def _blocked(self, stream: str) -> bool:
        return stream in self._reading or self.slots.of(stream).busy

    # --- what became of an append ---------------------------------------------------------------------------------

    def on_appended(self, token: int, result: Appended) -> list[Effect]:
        self.now_us = max(self.now_us, result.at_us)
        out: list[Effect] = []
        if token == self._group:
            self._group_appended(result, out)
        elif token in self._inflight:
            job, decision = self._inflight.pop(token)
            self.slots[job.stream].busy = False
            if result.positions:
                self._commit(job, decision, result.positions[0], out)
            else:
                self._lost(job, result.stopped, out)
            out += self._settled(job.stream)
        return self._finish(out)

    def on_append_failed(self, token: int, sentence: str) -> list[Effect]:
        """The log could not take it, or did and could not say so. Reactions wait for the next tick."""
        out: list[Effect] = []
        if token == self._group:
            self._group = 0
            for stream in self.reactions.failed():
                out += self._settled(stream)
        elif token in self._inflight:
            job, _ = self._inflight.pop(token)
            self.slots[job.stream].busy = False
            self._answer(job, Reply(status="unavailable", reason="LOG_AWAY", sentence=sentence), out)
            out += self._settled(job.stream)
        return out + self._drain_bugs()

    def _group_appended(self, result: Appended, out: list[Effect]) -> None:
        self._group = 0
        pairs = self.reactions.under_way
        lost = pairs[len(result.positions)][0].stream if result.stopped else ""
        committed = self.reactions.done(len(result.positions), isinstance(result.stopped, Duplicate))
        for (job, decision), position in zip(committed, result.positions, strict=True):
            self._commit(job, decision, position, out)
        if lost:
            out += self._read(lost)
        for stream in dict.fromkeys(job.stream for job, _ in pairs):
            out += self._settled(stream)

    def _commit(self, job: Job, decision: Decision, position: int, out: list[Effect]) -> None:
        if decision.events:
            slot = advance(self.slots[job.stream], job, decision)
            self.slots.put(job.stream, slot)
            self._order(job.stream, slot)
        reply = decision.reply
        self._answer(job, msgspec.structs.replace(reply, position=position) if decision.events else reply, out)

    def _lost(self, job: Job, why: Conflict | Duplicate | None, out: list[Effect]) -> None:
        if isinstance(why, Duplicate):
            self._answer(job, msgspec.structs.replace(decode_reply(why.outcome), position=why.position), out)
            return
        job.attempts += 1
        if job.attempts < ATTEMPTS_MAX:
            self._waiting.setdefault(job.stream, deque()).appendleft(job)
        else:
            sentence = f"{job.stream} was changed by others {ATTEMPTS_MAX} times in a row"
            self._answer(job, Reply(status="unavailable", reason="CONTENDED", sentence=sentence), out)
        out += self._read(job.stream)

    def _settled(self, stream: str) -> list[Effect]:
        """Its append is over. What others wrote meanwhile is read before anything else is decided."""
        slot = self.slots.of(stream)
        return self._read(stream) if slot.missed > slot.version else self._pump(stream)

    def _read(self, stream: str) -> list[Effect]:
        if stream in self._reading:
            return []
        self._reading.add(stream)
        return [ReadStream(stream, self.slots.of(stream).version)]

    def on_stream_read(self, stream: str, records: Sequence[Recorded]) -> list[Effect]:
        self._reading.discard(stream)
        for recorded, event in zip(records, self.events.events(records), strict=True):
            self.slots.fold(recorded, event)
        self._order(stream, self.slots.of(stream))
        return self._finish(self._settled(stream))

    # --- events and reactions -------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more events the inbox takes."""
        return INBOX_MAX - len(self.reactions.inbox)

    def on_events(self, records: Iterable[Recorded], now_us: int) -> list[Effect]:
        """Events in log order; those heard before are skipped. Raises ValueError on a hole, TooNew."""
        self.now_us = now_us
        self.reactions.hear(records)
        out = self._finish([])
        return out + self._finish(self._unpark()) if len(self._parking) else out

    def _react_to(self, recorded: Recorded) -> list[Job]:
        self.writer.hear(recorded)
        if not self.events.knows(recorded.type):
            if self.slots.own(recorded.stream):
                raise TooNew(recorded, 0)
            return []
        event = self.events.event(recorded)
        self.slots.fold(recorded, event)
        if self._deaf:
            return []
        self.views.apply(recorded, event)
        commands = self.service.react(event, recorded, self.views)
        return [self._reaction(command, recorded, n) for n, command in enumerate(commands)]

    def _reaction(self, command: Command, cause: Recorded, n: int) -> Job:
        meta = decode_meta(cause.meta)
        source = f"{self.incarnation}-{cause.position}"
        envelope = Envelope(
            id=f"{self.service.name}:{source}:{n}", data=NIL, actor=f"service:{self.service.name}",
            project=meta.project, owner=meta.owner, correlation=meta.correlation, causation=source,
            at_us=self.now_us, trace=meta.trace,
        )  # fmt: skip
        return self._job(command, envelope, None, cause)

    def _decide_reaction(self, job: Job, slot: Slot) -> Decision | None:
        decision = self._decide(job, slot)
        return None if decision.silent else decision

    def _finish(self, out: list[Effect]) -> list[Effect]:
        """What every step ends with: the next group of reactions, new orders, bugs."""
        if not self._group and (group := self.reactions.next_group()) is not None:
            self._group = self._token()
            traces = (job.envelope.trace for job, _ in self.reactions.under_way if job.envelope.trace)
            out.append(Append(self._group, group, "reactions", next(traces, "")))
        out += self.book.due(self.now_us)
        return out + self._drain_bugs() if self._bugs else out

    def _drain_bugs(self) -> list[Effect]:
        bugs, self._bugs = self._bugs, []
        return bugs

    # --- time and telemetry ---------------------------------------------------------------------------------------

    def on_tick(self, now_us: int, new_id: Iterable[str]) -> list[Effect]:
        """About once a second. `new_id` gives ids for the tick commands."""
        self.now_us = now_us
        states = ((stream, slot.state) for stream, slot in sorted(self.slots.items()))
        commands = [*self.service.ticks(now_us, states), *self.service.look(now_us, self.views)]
        out = self._own(commands, now_us, new_id)
        return self._finish(out + self._unpark())

    def on_own(self, commands: Iterable[Command], now_us: int, new_id: Iterable[str]) -> list[Effect]:
        """What this process itself has found out between two ticks, as when it carried out what was decided."""
        self.now_us = now_us
        return self._finish(self._own(commands, now_us, new_id))

    def _own(self, commands: Iterable[Command], now_us: int, new_id: Iterable[str]) -> list[Effect]:
        out: list[Effect] = []
        ids = iter(new_id)
        for command in commands:
            envelope = Envelope(id=next(ids), data=NIL, actor=f"service:{self.service.name}", at_us=now_us)
            out += self._admit(self._job(command, envelope, None))
        return out

    def on_mark(self) -> list[Effect]:
        """Now and then: store the consumer position even where nothing had to be written."""
        if self._group or (group := self.reactions.mark()) is None:
            return []
        self._group = self._token()
        return [Append(self._group, group)]

    def on_heard(self, stream: str, version: int, node: str) -> None:
        self.book.heard(stream, version, node)

    def on_telemetry(self, subject: str, data: bytes, now_us: int) -> None:
        self.service.hear(subject, data, now_us, self.views)

    # --- small things ---------------------------------------------------------------------------------------------

    def states(self) -> dict[str, Any]:
        return self.slots.states()

    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        r = self.reactions
        under_way = self._inflight or self._group or self._waiting or self._reading
        return not (under_way or len(self._parking) or r.inbox or r.todo)

    def _order(self, stream: str, slot: Slot) -> None:
        orders = self.service.orders(stream, slot.state, slot.version)
        self.book.update(stream, slot.version, orders, slot.correlation, slot.trace)

    def _answer(self, job: Job, reply: Reply, out: list[Effect]) -> None:
        if job.ref is None:
            return
        out.append(Answer(job.ref, reply))
        self._answered.note(job, reply)

    def _token(self) -> int:
        self._tokens += 1
        return self._tokens


def registries_of(
    services: Sequence[Service], upcasts: dict[tuple[str, int], Upcast] | None
) -> tuple[Registry, Registry]:
    """Of commands and of events, of all of them together."""
    deciders = [decider for service in services for decider in service.deciders]
    commands = dict.fromkeys(command for decider in deciders for command in decider.commands)
    events = dict.fromkeys(event for decider in deciders for event in decider.events)
    follows = dict.fromkeys(event for service in services for event in service.follows)
    return Registry([*commands, Hello]), Registry([*(events | follows)], upcasts)


def state_bytes(host: Host) -> bytes:
    """All own states as bytes: equal logs give equal bytes."""
    return host.slots.digestible()
