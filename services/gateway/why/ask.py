"""Reads from the log what `why` and `why-not` are made of. Nothing is guessed: what was not recorded is said to be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from libs.common.log import EventLog
from libs.common.messages import Envelope, Recorded, Reply, decode_envelope, decode_meta, decode_reply
from libs.common.registry import UnknownType
from proto.ladder import LadderClimbed, LadderDescended
from services.gateway.model import EVENTS
from services.gateway.reclaim import figures
from services.gateway.why.episodes import episodes
from services.gateway.why.placing import evidence_of
from services.gateway.why.tree import Known, Story, cause_of, stories

EVENTS_MAX = 200
"""events of the object itself that an answer goes back to, the newest"""
CAUSES_MAX = 400
"""events of other streams that are looked up as causes"""
REFUSALS_MAX = 20


class Refusal(msgspec.Struct):
    """A command that was decided and refused: who asked, for what, why not, and what would make it a yes."""

    at_us: int
    actor: str
    command: str
    reason: str
    sentence: str
    remedy: str


class Why(msgspec.Struct):
    """older: events of the object before those told here."""

    object: str
    stories: list[Story]
    older: int = 0


async def why(
    log: EventLog, object: str, stream: str, shown: Callable[[Known], Known | None], beside: Sequence[int] = (),
    led: Mapping[int, Sequence[int]] | None = None,
) -> Why:  # fmt: skip
    """The newest stories of a stream, with all that led to its events. beside: positions of other streams' events that belong to
    it, in order. led: positions of what led to an event, though none of it caused it alone. shown: what of an event the asker is
    told; None: nothing. Raises LogError."""
    own = await read_newest(log, stream)
    older = own[0].version - 1 if own else 0
    every = [*map(known, own), *await read_at(log, beside)]
    events = {one.recorded.position: found for one in every if (found := shown(one)) is not None}
    wanted = [found.meta for found in events.values()]
    for _ in range(CAUSES_MAX):
        position = 0
        while wanted and (position <= 0 or position in events):
            position = cause_of(wanted.pop())
        if position <= 0 or position in events:
            break
        for recorded in await log.read_all(position - 1, 1):
            if (cause := shown(known(recorded))) is not None:
                events[recorded.position] = cause
                wanted.append(cause.meta)
    before = sorted({at for position in events for at in (led or {}).get(position, ())} - events.keys())
    for one in await read_at(log, before[:CAUSES_MAX]):
        if (found := shown(one)) is not None:
            events[one.recorded.position] = found
    evidence = {at: lines for at, found in events.items() if (lines := _evidence(found))}
    return Why(object, stories(events.values(), evidence, episodes(events.values())), older)


def _evidence(known: Known) -> list[str]:
    decision = isinstance(known.event, LadderClimbed | LadderDescended)
    return figures(known.event.steps) if decision else evidence_of(known.event)


async def read_newest(log: EventLog, stream: str) -> list[Recorded]:
    """The last EVENTS_MAX events of a stream, in order."""
    kept: list[Recorded] = []
    while rows := await log.read_stream(stream, kept[-1].version if kept else 0):
        kept = (kept + rows)[-EVENTS_MAX:]
    return kept


async def read_at(log: EventLog, positions: Sequence[int]) -> list[Known]:
    return [known(row) for position in positions for row in await log.read_all(position - 1, 1)]


async def refusals(log: EventLog, stream: str) -> list[Refusal]:
    """What was refused to this stream, the newest first. Raises LogError."""
    found = []
    for row in await log.eventless(stream, REFUSALS_MAX):
        reply: Reply = decode_reply(row.outcome)
        if reply.status == "refused":
            asked: Envelope = decode_envelope(row.payload)
            name = str(msgspec.msgpack.decode(asked.data, type=dict[str, object]).get("type", ""))
            found.append(Refusal(row.at_us, asked.actor, name, reply.reason, reply.sentence, reply.remedy))
    return found


def known(recorded: Recorded) -> Known:
    try:
        event = EVENTS.event(recorded)
    except UnknownType:
        event = None
    return Known(recorded, decode_meta(recorded.meta), event)
