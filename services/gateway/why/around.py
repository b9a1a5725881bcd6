"""What led to an event, and what came of it, across all streams: read from the log by positions. Nothing is guessed; where not all
was looked at, that is said."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from libs.common.log import EventLog
from libs.common.messages import Meta, Recorded, decode_meta
from services.gateway.why.reading import known, read_at
from services.gateway.why.tree import Known, cause_of, thread, was_seen

CAUSES_MAX = 400
"""events that are looked up as causes"""
QUIET = 5_000
"""after so many events without another effect no more are looked for"""
READ_MAX = 100_000
"""events read for the effects told in one answer"""
READ_AT_ONCE = 1000
BACK_MAX = 100
"""events of a stream before what an agent saw, among which that is looked for which it followed"""

type Shown = Callable[[Known], Known | None]
"""what of an event the asker is told; None: nothing"""


class Followed(NamedTuple):
    """unread: the position behind which nothing was looked at; 0: all was, to the end of the log."""

    events: list[Recorded]
    unread: int


async def climb(log: EventLog, events: dict[int, Known], shown: Shown, led: Mapping[int, Sequence[int]]) -> None:
    """Adds all that led to these events, as far as it is shown. led: positions of what led to an event, though none of it caused it
    alone. Raises LogError."""
    wanted = list(events.values())
    for _ in range(CAUSES_MAX):
        position = 0
        while wanted and (position <= 0 or position in events):
            effect = wanted.pop()
            position = await _before(log, effect) if was_seen(effect.meta) else cause_of(effect.meta)
            position = position if position < effect.recorded.position else 0
        if position <= 0 or position in events:
            break
        for one in await read_at(log, [position]):
            if (cause := shown(one)) is not None:
                events[position] = cause
                wanted.append(cause)
    before = sorted({at for position in events for at in led.get(position, ())} - events.keys())
    for one in await read_at(log, before[:CAUSES_MAX]):
        if (found := shown(one)) is not None:
            events[one.recorded.position] = found


async def _before(log: EventLog, seen: Known) -> int:
    """The event that it follows (tree.Step.follows). Raises LogError."""
    behind = seen.recorded.version - 1
    rows = await log.read_stream(seen.recorded.stream, max(0, behind - BACK_MAX), min(behind, BACK_MAX)) if behind else []
    of_task = (row for row in reversed(rows) if decode_meta(row.meta).correlation == seen.meta.correlation)
    return next((row.position for row in of_task), 0)


async def effects(log: EventLog, of: Mapping[int, Known]) -> Followed:
    """All that these events caused, and what that caused; what agents saw of it, too. Raises LogError."""
    there = set(of)
    latest = {thread(one): one.recorded.position for _, one in sorted(of.items())}

    def wanted(recorded: Recorded, meta: Meta) -> bool:
        of_thread = recorded.stream, meta.correlation
        led = latest.get(of_thread, 0) if was_seen(meta) else cause_of(meta)
        if of_thread in latest or led in there:
            latest[of_thread] = recorded.position
        if led not in there:
            return False
        there.add(recorded.position)
        return True

    return await _follow(log, sorted(there), wanted)


async def of_task(log: EventLog, task: str, since: int) -> Followed:
    """All events of a task that began behind that position. Raises LogError."""
    return await _follow(log, [since], lambda recorded, meta: meta.correlation == task)


async def _follow(log: EventLog, seeds: Sequence[int], wanted: Callable[[Recorded, Meta], bool]) -> Followed:
    """From each of these positions on, until it is quiet."""
    found: list[Recorded] = []
    end = (await log.head()).position
    at, quiet_at, read = seeds[0], seeds[0] + QUIET, 0
    while at < end:
        if at >= quiet_at:
            following = bisect_right(seeds, at)
            if following == len(seeds):
                break
            at, quiet_at = seeds[following], seeds[following] + QUIET
        if read >= READ_MAX:
            break
        rows = await log.read_all(at, READ_AT_ONCE)
        if not rows:
            return Followed(found, 0)
        for recorded in rows:
            if wanted(recorded, decode_meta(recorded.meta)):
                found.append(recorded)
                quiet_at = recorded.position + QUIET
        at, read = rows[-1].position, read + len(rows)
        if (behind := bisect_right(seeds, at)) and seeds[behind - 1] + QUIET > quiet_at:
            quiet_at = seeds[behind - 1] + QUIET
    return Followed(found, at if at < end else 0)


def decoded(rows: Iterable[Recorded], shown: Shown) -> dict[int, Known]:
    """By position, as far as they are shown."""
    return {row.position: found for row in rows if (found := shown(known(row))) is not None}
