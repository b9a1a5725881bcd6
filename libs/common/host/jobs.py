"""From a command and a state to what is to be written: the pure middle of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from libs.common.decider import Decider, Refused
from libs.common.host.versions import Writer
from libs.common.log import CommandRow, NewEvent, Unit
from libs.common.messages import Command, Envelope, Event, Fact, Meta, Recorded, Reply, Tick, encode, tag_of


@dataclass(slots=True)
class Slot:
    """A stream in memory: its folded state, and whose it is. busy: an append of our own is under way; missed: the highest version
    that was heard of and could not be taken, as it came meanwhile, or before one that is missing. meta: of
    its latest event, where that is not decoded yet (Slots.settle)."""

    state: Any
    version: int = 0
    busy: bool = False
    meta: bytes = b""
    missed: int = 0
    project: str = ""
    owner: str = ""
    correlation: str = ""
    trace: str = ""


@dataclass(slots=True)
class Job:
    """A command to be decided. `ref`: who is to be answered (None: nobody); `cause`: the event that led to it, for a reaction;
    raw: the envelope as it came in, empty where the host made it."""

    envelope: Envelope
    command: Command
    decider: Decider[Any, Any, Any]
    stream: str
    ref: object = None
    cause: Recorded | None = None
    attempts: int = 0
    raw: bytes = b""

    @property
    def cause_position(self) -> int:
        return 0 if self.cause is None else self.cause.position


@dataclass(slots=True)
class Decision:
    """What a job came to. `base`: the stream's version it was made on; `row` is None where nothing need be kept."""

    base: int
    events: Sequence[Event]
    news: tuple[NewEvent, ...]
    reply: Reply
    row: CommandRow | None

    @property
    def silent(self) -> bool:
        return not self.events and self.row is None


def owner_of(job: Job, slot: Slot) -> tuple[str, str]:
    """(project, owner) of the events: the cause's for a reaction, the stream's own once it has one, else the asker's. A stream that
    is of one object keeps its own (Decider.alone)."""
    if slot.version > 0 and (job.cause is None or job.decider.alone):
        return slot.project, slot.owner
    return job.envelope.project, job.envelope.owner


def filled[C: Command](command: C, incarnation: int) -> C:
    """With the log's incarnation where the command has a field for it, whatever the sender said."""
    if getattr(command, "incarnation", incarnation) == incarnation:
        return command
    return msgspec.structs.replace(command, incarnation=incarnation)


def decide(job: Job, command: Command, slot: Slot, writer: Writer) -> Decision:
    """Decide the (enriched) command on the slot's state. What the decider raises beside Refused is a bug and passes through."""
    try:
        events = list(job.decider.decide(command, slot.state))
        reply = Reply(status="accepted", stream=job.stream, version=slot.version + len(events), task=job.envelope.correlation)
    except Refused as no:
        events = []
        reply = Reply(
            status="refused", reason=str(no.reason), sentence=no.sentence, remedy=no.remedy, stream=job.stream,
            version=slot.version,
        )  # fmt: skip
    row = _row(job, command, reply) if events or _kept(job, command, reply) else None
    written = [writer.write(event) for event in events]
    return Decision(slot.version, [w[0] for w in written], _news(job, slot, written), reply, row)


def _kept(job: Job, command: Command, reply: Reply) -> bool:
    """Is a command kept that came to no event? Facts and ticks are not: they come by the second, and are answered anew."""
    return not isinstance(command, Fact | Tick) and (job.cause is None or reply.status == "refused")


def row_id(command: Command, id: str) -> str:
    """Under which id a command is kept. A fact's is its node's own: no agent may take an id that another's fact, a task or a
    reaction is to be kept under."""
    return f"fact:{command.node}:{id}" if isinstance(command, Fact) else id


def _row(job: Job, command: Command, reply: Reply) -> CommandRow:
    if command is job.command and job.raw:
        payload = job.raw
    else:
        payload = encode(msgspec.structs.replace(job.envelope, data=msgspec.Raw(encode(command))))
    return CommandRow(row_id(command, job.envelope.id), payload, encode(reply))


def _news(job: Job, slot: Slot, written: Sequence[tuple[Event, int, bytes]]) -> tuple[NewEvent, ...]:
    if not written:
        return ()
    e = job.envelope
    project, owner = owner_of(job, slot)
    meta = encode(Meta(e.id, e.causation, e.correlation, e.actor, e.at_us, e.trace, project, owner))
    return tuple(NewEvent(tag_of(type(event)), v, data, meta) for event, v, data in written)


def unit(job: Job, decision: Decision, mark: int = 0) -> Unit:
    return Unit(job.stream, decision.base, decision.news, decision.row, mark)


def advance(slot: Slot, job: Job, decision: Decision) -> Slot:
    """The slot after the decision's events; the given one is not changed."""
    state = job.decider.fold(decision.events, slot.state)
    project, owner = (slot.project, slot.owner) if slot.version else owner_of(job, slot)
    e = job.envelope
    version = slot.version + len(decision.events)
    return Slot(
        state, version, slot.busy, missed=slot.missed, project=project, owner=owner, correlation=e.correlation, trace=e.trace
    )
