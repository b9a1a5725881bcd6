"""Published events made what the log is: of this log, in order, without holes."""

from __future__ import annotations

from collections.abc import Iterable

from libs.common.log import EventLog
from libs.common.messages import Recorded, decode_delivered

FETCH_MAX = 500
"""events that are taken from the bus, or read from the log, at once"""


def live(payloads: Iterable[bytes], incarnation: int, position: int) -> list[Recorded]:
    """Published events from a position on. Those of another incarnation of the log are not this log's: they are dropped."""
    heard = map(decode_delivered, payloads)
    return [d.event for d in heard if d.incarnation == incarnation and d.event.position >= position]


async def close_holes(events: EventLog, position: int, records: list[Recorded]) -> list[Recorded]:
    """`records` (ascending, from `position` on, perhaps repeated or with holes) made whole from the log. May end at a hole that
    is too long to be read at once."""
    out: list[Recorded] = []
    for recorded in records:
        while recorded.position > position:
            missing = await events.read_all(position - 1, min(recorded.position - position, FETCH_MAX))
            if not missing:
                return out
            out += missing
            position = missing[-1].position + 1
        if recorded.position == position:
            out.append(recorded)
            position += 1
    return out
