"""The figures of a lease fit to one another: whatever else is changed, these hold."""

from __future__ import annotations

import pytest

from libs.lease.times import DRIFT_PCT, FAST, MARGIN_US, TOLERANT, Times, drifted_us, scaled, times


@pytest.mark.parametrize("profile", [FAST, TOLERANT])
def test_a_node_has_ended_before_anyone_may_say_so(profile: Times) -> None:
    assert 2 * profile.beat_us < profile.pause_us < profile.kill_at_us < profile.lease_us < profile.waited_us
    slowest_us = profile.lease_us * 100 // (100 - DRIFT_PCT + 1)
    assert slowest_us <= profile.waited_us - MARGIN_US + 1
    assert profile.successor_us == profile.sign_us + profile.waited_us


def test_figures_are_those_of_the_protocol() -> None:
    assert (FAST.lease_us, FAST.pause_us, FAST.waited_us) == (5_000_000, 3_000_000, 5_550_000)
    assert TOLERANT.waited_us == 30_800_000
    assert (times(False), times(True)) == (FAST, TOLERANT)


def test_drift_is_rounded_up() -> None:
    assert drifted_us(1) == 2
    assert drifted_us(100) == 101


def test_scaled_keeps_the_order() -> None:
    small = scaled(FAST, 10)
    assert small.pause_us < small.kill_at_us < small.lease_us
    assert small.lease_us == 500_000
