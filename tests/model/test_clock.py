"""The clock's twin keeps what the real one promises, and nothing happens by chance in it."""

from __future__ import annotations

from uuid import UUID

import pytest

from libs.common.clock import Clock, ManualClock, SystemClock, uuid7


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()], ids=["system", "manual"])
def test_the_contract(clock: Clock) -> None:
    made = [clock.new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {UUID(i).version for i in made} == {7}
    assert clock.monotonic() <= clock.monotonic()
    assert clock.now_us() > 1_600_000_000_000_000


def test_the_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(now_us=5_000_000)
    assert (clock.now_us(), clock.monotonic()) == (5_000_000, 0.0)
    clock.advance(1.5)
    assert (clock.now_us(), clock.monotonic()) == (6_500_000, 1.5)
    with pytest.raises(ValueError, match="forward only"):
        clock.advance(-1)


def test_one_seed_one_sequence_of_ids() -> None:
    def ids(seed: int) -> list[str]:
        clock = ManualClock(seed=seed)
        return [clock.new_id() for _ in range(5)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_ids_sort_by_time() -> None:
    clock = ManualClock()
    first = clock.new_id()
    clock.advance(0.001)
    assert first < clock.new_id()
    with pytest.raises(ValueError, match="ten bytes"):
        uuid7(0, b"short")
