"""A process's time of day (libs/common/steady.py)."""

from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import ManualClock
from libs.common.steady import SLEW, Steady, SteadyClock

S = 1_000_000
HOURS = 7200 * S


def test_it_is_as_its_clock_where_nobody_is_ahead() -> None:
    steady = Steady()
    assert [steady.at(HOURS), steady.at(HOURS + S), steady.at(2 * HOURS)] == [HOURS, HOURS + S, 2 * HOURS]


def test_what_was_heard_before_anything_was_read_counts() -> None:
    steady = Steady()
    steady.heard(HOURS)
    assert steady.at(5 * S) == HOURS
    assert steady.at(15 * S) == HOURS + 9 * S, "a tenth of what passes is what it catches up with"


def test_it_goes_on_where_its_clock_is_set_back() -> None:
    steady = Steady()
    steady.at(HOURS)
    assert steady.at(S) == HOURS
    assert steady.at(11 * S) == HOURS + 9 * S


def test_its_clock_catches_up_and_is_followed_again() -> None:
    steady = Steady()
    steady.at(100 * S)
    steady.heard(110 * S)
    assert steady.at(150 * S) == 155 * S
    assert steady.at(200 * S) == 200 * S
    assert steady.at(201 * S) == 201 * S


def test_a_clock_is_told_of_the_log() -> None:
    clock = ManualClock(S)
    steady = SteadyClock(clock)
    steady.heard(HOURS)
    assert steady.now_us() == HOURS
    clock.advance(10)
    assert steady.now_us() == HOURS + 9 * S
    assert steady.monotonic() == clock.monotonic()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10**9)), max_size=40))
def test_it_never_goes_back_and_is_never_before_clock_or_log(steps: list[tuple[bool, int]]) -> None:
    """And ahead of both by nothing but what it was ahead before."""
    steady, shown = Steady(), 0
    for is_clock, at_us in steps:
        if is_clock:
            passed = max(0, at_us - steady.clock_us) if steady.clock_us else 0
            now = steady.at(at_us)
            assert now >= max(shown, at_us)
            assert now <= max(at_us, shown + passed - passed // SLEW)
        else:
            steady.heard(at_us)
            now = steady.shown_us
            assert now == max(shown, at_us)
        shown = now
