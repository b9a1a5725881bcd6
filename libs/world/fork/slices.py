"""What a log says up to a moment: all that a fork is made of, and nothing else is read of the cluster.

    slice = await taken(past, "now")          or a position, `48211`, or a time, `2026-11-20 14:03` (this machine's zone, or the
                                              one it names)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from libs.common.log import Head
from libs.common.messages import Recorded, decode_meta, tag_of
from libs.past.source import Past
from proto.cluster import IncarnationBegan

EVENTS_MAX = 500_000
"""of a log that is forked: all of them are folded, and held in memory"""
BEGAN = tag_of(IncarnationBegan)
_began = msgspec.msgpack.Decoder(IncarnationBegan).decode


class CannotFork(Exception):
    """What is wrong, and what would be right."""


@dataclass(frozen=True, slots=True)
class Slice:
    """events: from the first on. at_us: when the last of them was written. head: of the log that they were taken from."""

    events: tuple[Recorded, ...]
    incarnation: int
    at_us: int
    head: Head

    @property
    def position(self) -> int:
        return len(self.events)


async def taken(past: Past, at: str = "now") -> Slice:
    """Raises CannotFork, LogError."""
    head = await past.head()
    position = await _position(past, at, head)
    if position == 0:
        raise CannotFork("there is nothing in the log by then: nothing can be forked")
    if position > EVENTS_MAX:
        raise CannotFork(
            f"the log has {position} events by then, and a fork holds at most {EVENTS_MAX}: fork an earlier moment (--at)"
        )
    read = [recorded async for chunk in past.replay(0, position + 1) for recorded in chunk]
    wanted = min(position + 1, head.position)
    if len(read) < wanted or read[0].position != 1 or read[wanted - 1].position != wanted:
        last = read[-1].position if read else 0
        raise CannotFork(f"the log has {len(read)} events up to {position}, the last is {last}: it is not whole")
    events = _decided(read, position)
    if not events:
        raise CannotFork(f"what was decided first ends after {position}: nothing can be forked")
    incarnation = head.incarnation if len(events) == head.position else _incarnation(events)
    return Slice(events, incarnation, events[-1].at_us, head)


def _decided(read: list[Recorded], position: int) -> tuple[Recorded, ...]:
    """What one command has decided is there wholly or not at all."""
    end = min(position, len(read))
    while 0 < end < len(read) and decode_meta(read[end - 1].meta).command == decode_meta(read[end].meta).command:
        end -= 1
    return tuple(read[:end])


def _incarnation(events: tuple[Recorded, ...]) -> int:
    """The last that had begun by then."""
    began = next((recorded for recorded in reversed(events) if recorded.type == BEGAN), None)
    return _began(began.data).incarnation if began is not None else 1


async def _position(past: Past, at: str, head: Head) -> int:
    word = at.strip()
    if word.lower() == "now":
        return head.position
    if word.isdecimal():
        position = int(word)
        if not 1 <= position <= head.position:
            raise CannotFork(f"there is no position {word}: the log has 1 to {head.position}")
        return position
    try:
        moment = datetime.fromisoformat(word).astimezone()
    except ValueError:
        raise CannotFork(f"`{at}` is no moment: write now, a position, or a time as 2026-11-20 14:03") from None
    at_us = round(moment.timestamp() * 1e6)
    if at_us > head.at_us:
        said = datetime.fromtimestamp(head.at_us / 1e6).astimezone().isoformat(" ", "seconds")
        raise CannotFork(f"`{at}` is after the last event, which was written at {said}: write now")
    position = await past.position_at(at_us)
    if position == 0:
        raise CannotFork(f"`{at}` is before the first event of the log")
    return position
