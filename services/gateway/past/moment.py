"""Which position of the log somebody means: a number, a time, or how long ago. Pure but for `position_at`, which asks the log.

    123456                                the position
    2026-11-20 14:03[:07]                 a time; without a zone it is UTC
    2026-11-20T14:03:07+01:00             ISO 8601
    -10m  -90s  -2h  -1d                  so long ago
    now                                   the newest event
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec

from services.gateway.past.source import Readable

RIGHT = (
    "a position (123456), a time (2026-11-20 14:03, ISO 8601, UTC unless it names a zone), how long ago (-10m; s, m, h, d), or now"
)
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DIGITS_MAX = 18
AFTER_ALL_US = 1 << 62
"""a time behind every event's, whatever clock wrote it"""

_AGO = re.compile(r"-(\d{1,9})([smhd])")


class BadMoment(ValueError):
    """What is wrong with it, and what would be right (`remedy`)."""

    def __init__(self, sentence: str, remedy: str = RIGHT) -> None:
        super().__init__(sentence)
        self.remedy = remedy


class Moment(msgspec.Struct, frozen=True):
    """One of both: a position, or microseconds since the epoch."""

    position: int = -1
    at_us: int = -1


def read(text: str, now_us: int) -> Moment:
    """Raises BadMoment where it is none, or lies in the future."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX:
        return Moment(position=int(text))
    if text == "now":
        return Moment(at_us=AFTER_ALL_US)
    if (ago := _AGO.fullmatch(text)) is not None:
        at_us = now_us - int(ago[1]) * UNITS_S[ago[2]] * 1_000_000
        return Moment(at_us=max(0, at_us))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadMoment(f"`{text}` is no moment of the past") from None
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    at_us = (time - EPOCH) // timedelta(microseconds=1)
    if at_us > now_us:
        raise BadMoment(f"{said(at_us)} is not past yet; it is {said(now_us)}", "name a moment that is past")
    return Moment(at_us=at_us)


def said(at_us: int) -> str:
    """As people write it, in UTC."""
    try:
        return f"{EPOCH + timedelta(microseconds=at_us):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:  # a zone may carry it out of the years 1 to 9999
        return "that time"


async def position_of(moment: Moment, log: Readable) -> tuple[int, int]:
    """(The position, when it was written): the last one at that time or before. Raises BadMoment, LogError."""
    head = await log.head()
    if head.position == 0:
        raise BadMoment("nothing has happened yet: the log has no event", "ask without a moment")
    if moment.position > head.position:
        said_end = f"the log ends at position {head.position}; there is no {moment.position}"
        raise BadMoment(said_end, f"name one from 1 to {head.position}")
    if moment.position == 0:
        raise BadMoment("before position 1 there is nothing", f"name one from 1 to {head.position}")
    if moment.position > 0:
        return moment.position, await _written(log, moment.position)
    first_us = await _written(log, 1)
    if moment.at_us < first_us:
        raise BadMoment(f"{said(moment.at_us)} lies before the first event, which is of {said(first_us)}", "name a later moment")
    low, high = 1, head.position
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if await _written(log, middle) <= moment.at_us else (low, middle - 1)
    return low, await _written(log, low)


async def _written(log: Readable, position: int) -> int:
    rows = await log.read_all(position - 1, 1)
    if not rows:
        raise BadMoment(f"the log has no event {position}", "ask again, or name another")
    return rows[0].at_us
