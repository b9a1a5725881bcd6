"""Times that come again: what is refused, which is next, which was the newest, in UTC through every change of clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common import cron

MINUTE_US, HOUR_US, DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("", "it has 0 fields"),
        ("0 2 * *", "it has 4 fields"),
        ("0 0 2 * * *", "it has 6 fields"),
        ("60 * * * *", "Bad minute"),
        ("0 25 * * *", "Bad hour"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("0 0 * 13 *", "Bad month"),
        ("0 0 * * FOO", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        ("5-1 * * * *", "Bad minute"),
        ("@daily", "it has 1 fields"),
        ("\N{SUPERSCRIPT TWO} * * * *", "not ASCII"),
        ("0 0 * * " + "1," * 50 + "1", "100 are the most"),
    ],
)
def test_what_is_no_time_is_said(expression: str, wrong: str) -> None:
    assert wrong in cron.fault(expression)


@given(st.text(alphabet="0123456789*/,-#LWMONTUE ", max_size=30) | st.text(max_size=20))
def test_whatever_is_given_it_is_a_time_or_is_refused(expression: str) -> None:
    if not cron.fault(expression):
        assert cron.following(expression, us("2024-01-01T00:00")) > us("2024-01-01T00:00")


def test_the_next_and_the_newest() -> None:
    nightly = "0 2 * * *"
    assert cron.following(nightly, us("2026-12-01T01:59:59")) == us("2026-12-01T02:00")
    assert cron.following(nightly, us("2026-12-01T02:00")) == us("2026-12-02T02:00")
    assert cron.latest(nightly, us("2026-12-01T02:00")) == us("2026-12-01T02:00")
    assert cron.latest(nightly, us("2026-12-01T02:00") - 1) == us("2026-11-30T02:00")
    assert cron.latest(nightly, us("2026-12-01T02:00") + 1) == us("2026-12-01T02:00")


def test_no_hour_is_there_twice_or_left_out() -> None:
    """2026-03-29 and 2026-10-25: clocks change in Europe."""
    for day in ("2026-03-28T23:30", "2026-10-24T23:30"):
        at, times = us(day), []
        for _ in range(5):
            times.append(at := cron.following("30 * * * *", at))
        assert [b - a for a, b in pairwise(times)] == [HOUR_US] * 4


def test_the_period_spans_a_weekend() -> None:
    assert cron.period_us("0 2 * * *", us("2026-12-01T03:00")) == DAY_US
    workdays = "0 2 * * 1-5"
    assert cron.period_us(workdays, us("2026-11-28T03:00")) == 3 * DAY_US  # Saturday
    assert cron.period_us(workdays, us("2026-11-30T03:00")) == 3 * DAY_US  # Monday, just after
    assert cron.period_us(workdays, us("2026-12-02T03:00")) == DAY_US


@given(st.sampled_from(["0 2 * * *", "*/7 3-5 * * 1", "0 0 29 2 *", "15 4 L * *", "0 0 1 */3 *"]), st.integers(0, 4 * 10**15))
def test_nothing_lies_between(expression: str, at_us: int) -> None:
    """The next after the newest is after now, and the newest before the next is not."""
    coming, last = cron.following(expression, at_us), cron.latest(expression, at_us)
    assert last <= at_us < coming
    assert cron.following(expression, last) == coming
    assert cron.latest(expression, coming - 1) == last
    assert coming % MINUTE_US == 0
