"""A slice cut out of a log: events of the chosen streams from their first on, with their commands, under positions of their own.

Positions are given anew, without holes, so that every tool reads the slice as a log, and a database takes it in as it is. What is
made of positions goes along: who caused what, and the ids of services' own commands. A cause that is not in the slice is no
position any more: what it led to begins a story there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from libs.common.host.versions import FINALIZED
from libs.common.messages import Recorded, decode_envelope, decode_meta, decode_reply, encode
from libs.past.aslog import Aslog, aslog
from libs.past.slices.select import EVENTS_MAX, Chosen
from libs.past.source import Answers, Decided, Past

_REACTION = re.compile(r"([a-z]+):(\d+)-(\d+):(\d+)")
"""the id of a command that a service gave itself upon an event (libs/common/host/core.py)"""


class TooMuch(Exception):
    """It would not fit into a file that is read whole."""


async def cut(past: Past, chosen: Chosen, note: str = "") -> Aslog:
    """Raises TooMuch, LogError."""
    events: list[Recorded] = []
    async for chunk in past.replay(0, chosen.last):
        events += [event for event in chunk if chosen.holds(event.stream)]
        if len(events) > EVENTS_MAX:
            said = f"more than {EVENTS_MAX} events would be in it: name a VM or a node, or end it earlier (--to, --around)"
            raise TooMuch(said)
    commands = await _commands(past, chosen, events[-1].at_us if events else 0)
    new = {event.position: n for n, event in enumerate(events, 1)}
    since = next((n for position, n in new.items() if position >= chosen.first), len(events))
    moved = Renumbered(new)
    incarnation = (await past.head()).incarnation
    content = aslog(
        [moved.event(event) for event in events], [moved.command(one) for one in commands], incarnation, note=note,
        protocol=max((_protocol(event) for event in events if event.type == FINALIZED), default=1),
    )  # fmt: skip
    header = replace(content.header, since=since, was_first=chosen.first, was_last=chosen.last)
    return Aslog(header, content.events, content.commands)


async def _commands(past: Past, chosen: Chosen, until_us: int) -> list[Decided]:
    """Those that wrote nothing among them, where the log gives them."""
    found = [one async for decided in past.commands(0, chosen.last) for one in decided if chosen.holds(one.stream)]
    if isinstance(past, Answers):
        async for decided in past.unwritten():
            found += [one for one in decided if chosen.holds(one.stream) and one.at_us <= until_us]
    return found


def _protocol(event: Recorded) -> int:
    return int(msgspec.msgpack.decode(event.data)["protocol"])


class Renumbered:
    """new: positions in the slice by those in its log."""

    def __init__(self, new: Mapping[int, int]) -> None:
        self._new = new
        self._same = all(old == position for old, position in new.items())

    def event(self, event: Recorded) -> Recorded:
        if self._same:
            return event
        meta = decode_meta(event.meta)
        told = replace(
            meta, command=self.id(meta.command), causation=self.cause(meta.causation), correlation=self.id(meta.correlation)
        )
        data = event.meta if told == meta else encode(told)
        return Recorded(
            self._new[event.position], event.stream, event.version, event.type, event.v, event.at_us, event.data, data
        )

    def command(self, one: Decided) -> Decided:
        if self._same:
            return one
        envelope, reply = decode_envelope(one.payload), decode_reply(one.outcome)
        told = replace(
            envelope, id=self.id(envelope.id), causation=self.cause(envelope.causation), correlation=self.id(envelope.correlation),
            seen=0,
        )  # fmt: skip
        answer = replace(reply, task=self.id(reply.task))
        payload = one.payload if told == envelope else encode(told)
        outcome = one.outcome if answer == reply else encode(answer)
        position = self._new[one.position] if one.position else 0
        return Decided(position, one.at_us, self.id(one.id), one.stream, payload, outcome)

    def cause(self, causation: str) -> str:
        incarnation, dash, position = causation.partition("-")
        found = self._new.get(int(position)) if dash and position.isdigit() else None
        return f"{incarnation}-{found}" if found else ""

    def id(self, id: str) -> str:
        match = _REACTION.fullmatch(id)
        if match is None:
            return id
        service, incarnation, position, n = match.groups()
        return f"{service}:{incarnation}-{self._new.get(int(position), f'x{position}')}:{n}"
