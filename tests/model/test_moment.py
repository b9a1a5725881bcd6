"""Which position of the log is meant by a number, a time, or how long ago."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from libs.common.log import Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import Meta, encode
from services.cli.moment import zoned
from services.gateway.past.moment import BadMoment, Moment, position_of, read, said

NOON_US = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * 1_000_000
S = 1_000_000


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7", Moment(position=7)),
        (" 123456 ", Moment(position=123456)),
        ("-10m", Moment(at_us=NOON_US - 600 * S)),
        ("-90s", Moment(at_us=NOON_US - 90 * S)),
        ("-2h", Moment(at_us=NOON_US - 7200 * S)),
        ("-1d", Moment(at_us=NOON_US - 86_400 * S)),
        ("2026-11-20 11:03", Moment(at_us=NOON_US - 57 * 60 * S)),
        ("2026-11-20T12:00:00+01:00", Moment(at_us=NOON_US - 3600 * S)),
        ("2026-11-20T11:00:00.000001Z", Moment(at_us=NOON_US - 3600 * S + 1)),
    ],
)
def test_numbers_times_and_how_long_ago(text: str, meant: Moment) -> None:
    assert read(text, NOON_US) == meant


@pytest.mark.parametrize("text", ["", "yesterday", "-10", "10m", "-10w", "2026-13-01", "1.5", "٣", "9" * 19])
def test_what_is_no_moment_is_told_with_what_would_be(text: str) -> None:
    with pytest.raises(BadMoment, match="is no moment") as bad:
        read(text, NOON_US)
    assert "-10m" in bad.value.remedy


def test_the_future_is_not_past() -> None:
    with pytest.raises(BadMoment, match="2026-11-20 12:00:01 UTC is not past yet; it is 2026-11-20 12:00:00 UTC"):
        read("2026-11-20 12:00:01", NOON_US)


def log_of(*seconds: int) -> MemoryLog:
    """An event at each of these."""
    times = iter(seconds)
    log = MemoryLog(lambda: next(times) * S)
    for n in range(len(seconds)):
        event = NewEvent("node_joined", 1, b"\x80", encode(Meta("c", "", "c", "user:a", 0)))
        log.append_now(Group((Unit(f"node-n{n}", 0, (event,)),)))
    return log


def found(log: MemoryLog, moment: Moment) -> tuple[int, int]:
    return asyncio.run(position_of(moment, log))


def test_a_time_is_the_last_position_by_then() -> None:
    log = log_of(10, 20, 20, 30)
    assert [found(log, Moment(at_us=at * S))[0] for at in (10, 19, 20, 29, 30, 99)] == [1, 1, 3, 3, 4, 4]
    assert found(log, Moment(position=2)) == (2, 20 * S)


def test_now_is_the_newest_event_whatever_the_clocks() -> None:
    assert found(log_of(10, 20, 2**40), read(" now ", NOON_US)) == (3, 2**40 * S)


def test_what_the_log_has_not_is_refused() -> None:
    log = log_of(10, 20)
    for moment, why in (
        (Moment(position=3), "the log ends at position 2; there is no 3"),
        (Moment(position=0), "before position 1 there is nothing"),
        (Moment(at_us=9 * S), f"{said(9 * S)} lies before the first event, which is of {said(10 * S)}"),
    ):
        with pytest.raises(BadMoment) as bad:
            found(log, moment)
        assert str(bad.value) == why
    with pytest.raises(BadMoment, match="nothing has happened yet"):
        found(log_of(), Moment(position=1))


def test_a_terminal_says_times_in_its_own_zone() -> None:
    told = datetime.fromisoformat(zoned("2026-11-20 14:03"))
    assert told.tzinfo is not None
    assert told == datetime(2026, 11, 20, 14, 3).astimezone()
    assert [zoned(text) for text in ("-10m", "123", "2026-99-99", "2026-11-20T14:03Z")] == [
        "-10m", "123", "2026-99-99", "2026-11-20T14:03:00+00:00",
    ]  # fmt: skip


def test_a_moment_is_one_of_both() -> None:
    assert msgspec.structs.astuple(Moment(position=3)) == (3, -1)
