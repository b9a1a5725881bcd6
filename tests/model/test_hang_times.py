"""How long it takes until a guest is found dead that hangs, by the kinds of hang and by what its kernel still writes: what
docs/vm-failure.md says of it. A second of ha's own look comes on top."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.ha.verdict_rule import IDLE_S, STILL_S
from tests.model.test_vitals import LOOK_S, Guest

STEPS_S = 0.25
FOUND_S_MAX = 120


def died(guest: Guest) -> None:
    """Its kernel, on a vCPU that spins."""
    guest.hang()


def stands(guest: Guest) -> None:
    guest.answers, guest.writes, guest.busy = False, 0.0, [0.0]


def stilled(guest: Guest) -> None:
    """All of its programs stand still; its kernel ticks on."""
    guest.answers, guest.writes = False, 0.0


def found_s(how: Callable[[Guest], None], late_s: float, writes_s: tuple[float, ...] = ()) -> float:
    """From the hang, which is late_s before the next look. writes_s: when its kernel writes what is left."""
    guest = Guest().looks(60)
    how(guest)
    at_s = late_s
    for _ in range(FOUND_S_MAX):
        guest.marks += sum(at_s - LOOK_S < when <= at_s for when in writes_s)
        guest.looks()
        if guest.hangs:
            return at_s
        at_s += LOOK_S
    raise AssertionError("it is never found")


LATE_S = [step * STEPS_S for step in range(1, round(LOOK_S / STEPS_S) + 1)]


@pytest.mark.parametrize("late_s", LATE_S)
def test_a_kernel_that_died_is_found_within_24_s(late_s: float) -> None:
    for how in (died, stands):
        assert STILL_S - LOOK_S <= found_s(how, late_s) <= 24


@pytest.mark.parametrize("late_s", LATE_S)
def test_stilled_programs_are_found_within_33_s_where_their_kernel_writes_nothing_for_long(late_s: float) -> None:
    assert IDLE_S - LOOK_S <= found_s(stilled, late_s) <= 33
    assert found_s(stilled, late_s, (1, 4, 9)) <= 33


@pytest.mark.parametrize("last_s", [10, 14, 18, 22, 25])
def test_and_else_within_24_s_of_its_last_write_which_no_rule_can_tell_from_life(last_s: float) -> None:
    """Every write that comes less than STILL_S after the one before puts it off."""
    found = [found_s(stilled, late_s, (1, 6, last_s)) for late_s in LATE_S]
    assert max(found) <= max(33, last_s + 24)
    assert last_s < 18 or min(found) >= last_s + STILL_S - LOOK_S
    assert last_s < 22 or max(found) > 40
