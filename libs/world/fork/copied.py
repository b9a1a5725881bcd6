"""The log of a fork: the recorded events, and how far each service had come with its reactions.

How far is told by the events themselves: each names what it answers to (Meta.causation), and a service reacts in log order. So all
before the last event that it has answered is done; that one may be half done, and what follows may be in flight: it is reacted to
again, as after any crash. The answers that the last one had are known by their commands' ids, and are not decided twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from libs.common.host.reactions import MARK_EVERY
from libs.common.log import Duplicate
from libs.common.log.memory import KeptCommand, MemoryLog
from libs.common.messages import Recorded, Reply, decode_meta, encode
from libs.world.fork.slices import Slice

LOOKED_MAX = 20 * MARK_EVERY
"""events that are looked at, from the last one back, for what services have answered"""
ACCEPTED = encode(Reply(status="accepted"))


def copied(slice: Slice, services: Iterable[str], clock_us: Callable[[], int]) -> MemoryLog:
    """All of it was published."""
    marks = reacted(slice.events, services)
    commands = _answers(slice, marks)
    return MemoryLog.holding(clock_us, slice.incarnation, slice.events, {**marks, "relay": slice.position}, commands)


def reacted(events: Sequence[Recorded], services: Iterable[str]) -> dict[str, int]:
    """By service, the position up to which its reactions are certainly decided. No service is ever further behind its log
    than MARK_EVERY, unless it was down."""
    head = len(events)
    marks = {f"service:{name}": 0 for name in services}
    left = {*marks}
    for recorded in reversed(events[-LOOKED_MAX:]):
        if not left:
            break
        meta = decode_meta(recorded.meta)
        if meta.actor in left and meta.causation:
            marks[meta.actor] = int(meta.causation.rpartition("-")[2]) - 1
            left.remove(meta.actor)
    return {actor.partition(":")[2]: max(mark, head - MARK_EVERY, 0) for actor, mark in marks.items()}


def _answers(slice: Slice, marks: dict[str, int]) -> dict[str, KeptCommand]:
    """The reactions behind these marks that were decided."""
    found: dict[str, KeptCommand] = {}
    for recorded in slice.events[min(marks.values(), default=0) :]:
        command = decode_meta(recorded.meta).command
        if command.partition(":")[0] in marks:
            kept = KeptCommand(b"", Duplicate(ACCEPTED, recorded.position), slice.position, recorded.stream, recorded.at_us)
            found.setdefault(command, kept)
    return found
