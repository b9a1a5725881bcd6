"""Times that come again, by cron's five fields, in UTC. Pure: made of what is handed in.

    cron.fault("0 25 * * *")              "Bad hour"
    cron.following("0 2 * * *", at_us)    the first time after at_us
    cron.latest("0 2 * * *", now_us)      the newest that is not after now_us

In UTC no hour is there twice, and none is left out: what a change to summer time does to schedules is no matter here. cronsim reads
the fields as Debian's cron does, and knows `L` (the last day of a month) and `MON#2` (its second Monday) beside them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

CRON_MAX = 100
"""characters"""
EXAMPLE = '"0 2 * * *": every day at 02:00 UTC (minute, hour, day of the month, month, day of the week)'
MINUTE_US = 60_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)


def fault(expression: str) -> str:
    """What is wrong with it; empty: nothing."""
    if len(expression) > CRON_MAX:
        return f"it has {len(expression)} characters, and {CRON_MAX} are the most"
    if not expression.isascii():
        return "it has characters that are not ASCII"
    if (fields := len(expression.split())) != 5:
        return f"it has {fields} fields, and five make a time"
    try:
        next(CronSim(expression, _SOME_DAY), None)
    except CronSimError as error:
        return str(error)
    return "" if following(expression, _us(_SOME_DAY)) else "there is no such time within fifty years"


@lru_cache(maxsize=1 << 16)
def following(expression: str, at_us: int) -> int:
    """The first time after at_us, in microseconds since the epoch; 0: none within fifty years. Raises CronSimError. Kept: it is
    asked for each schedule once a second, mostly about the same."""
    found = next(CronSim(expression, _at(at_us)), None)
    return _us(found) if found is not None else 0


def latest(expression: str, now_us: int) -> int:
    """The newest time that is not after now_us; 0: none within fifty years. Raises CronSimError."""
    return _latest(expression, now_us - now_us % MINUTE_US)


@lru_cache(maxsize=1 << 12)
def _latest(expression: str, minute_us: int) -> int:
    """Times are whole minutes: many schedules that are due at once ask for the same."""
    found = next(CronSim(expression, _at(minute_us) + timedelta(seconds=1), reverse=True), None)
    return _us(found) if found is not None else 0


def period_us(expression: str, now_us: int) -> int:
    """How far apart its times are around now_us: the longer of the span that it lies in and the one before, so that a weekend is no
    gap in what comes on working days. 0: it does not come again. Raises CronSimError."""
    last, coming = latest(expression, now_us), following(expression, now_us)
    before = latest(expression, last - 1) if last else 0
    return max(coming - last if coming and last else 0, last - before if before else 0)


def _at(at_us: int) -> datetime:
    """The second that it lies in."""
    return _EPOCH + timedelta(seconds=at_us // 1_000_000)


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
