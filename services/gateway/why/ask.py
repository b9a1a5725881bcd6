"""The answers of `why`: of an object, of an event, of a task. Nothing is guessed: what was not recorded is said to be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from libs.common.log import EventLog
from services.gateway.why import around
from services.gateway.why.around import Followed, Shown
from services.gateway.why.episodes import episodes
from services.gateway.why.evidence import evidence
from services.gateway.why.reading import read_at, read_newest
from services.gateway.why.tree import Known, Story, stories


class Why(msgspec.Struct):
    """older: events of the object before those told here. unread: the position behind which no effects were looked for; 0: they
    were to the end of the log, or were not asked for."""

    object: str
    stories: list[Story]
    older: int = 0
    unread: int = 0


class Subject(msgspec.Struct):
    """What is asked about: its own streams, of which the first is counted; beside: positions of other streams' events that belong
    to it, in order; led: of what led to an event, though none of it caused it alone. pools: names, by their words."""

    object: str
    streams: Sequence[str] = ()
    beside: Sequence[int] = ()
    led: Mapping[int, Sequence[int]] = msgspec.field(default_factory=dict)
    pools: Mapping[str, str] = msgspec.field(default_factory=dict)


async def why(log: EventLog, subject: Subject, shown: Shown, effects: bool = False) -> Why:
    """The newest stories of an object, with all that led to its events. effects: and with what came of them in all other streams.
    Raises LogError."""
    own = [await read_newest(log, stream) for stream in subject.streams]
    older = own[0][0].version - 1 if own and own[0] else 0
    events = around.decoded((row for rows in own for row in rows), shown)
    for one in await read_at(log, [at for at in subject.beside if at not in events]):
        if (found := shown(one)) is not None:
            events[one.recorded.position] = found
    followed = await around.effects(log, events) if effects and events else Followed([], 0)
    return await _told(log, subject, events | around.decoded(followed.events, shown), shown, older, followed.unread)


async def why_event(log: EventLog, subject: Subject, event: Known, shown: Shown) -> Why:
    """What led to it, up to the request or fault, and all that came of it. Raises LogError."""
    position = event.recorded.position
    followed = await around.effects(log, {position: event})
    events = {position: event} | around.decoded(followed.events, shown)
    return await _told(log, subject, events, shown, 0, followed.unread)


async def why_task(log: EventLog, subject: Subject, task: str, since: int, shown: Shown) -> Why:
    """All that is recorded of a task that began behind that position. Raises LogError."""
    followed = await around.of_task(log, task, since)
    return await _told(log, subject, around.decoded(followed.events, shown), shown, 0, followed.unread)


async def _told(
    log: EventLog, subject: Subject, events: dict[int, Known], shown: Shown, older: int, unread: int
) -> Why:
    await around.climb(log, events, shown, subject.led)
    lines = {at: found for at, one in events.items() if (found := evidence(one.event, subject.pools))}
    return Why(subject.object, stories(events.values(), lines, episodes(events.values())), older, unread)
