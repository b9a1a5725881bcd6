"""Two processes of a VM are two copies only where both run."""

from __future__ import annotations

from tests.chaos.sampler import RUNNING_NS, RUNS_NS, Copy, Watch

OLD, NEW = Copy("w", "n1", 10), Copy("w", "n2", 20)


def watch(*looks: dict[Copy, int]) -> Watch:
    """A look every 20 ms; CPU time in multiples of what counts as running."""
    made = Watch()
    for number, look in enumerate(looks):
        made.look(number * 0.02, {copy: used * RUNS_NS for copy, used in look.items()})
    return made


def test_one_after_the_other_is_no_double() -> None:
    seen = watch({OLD: 5}, {OLD: 9}, {}, {NEW: 0}, {NEW: 4})
    assert seen.doubles == [] and seen.together == 0


def test_a_frozen_one_beside_one_that_waits_for_its_lock_is_no_double() -> None:
    seen = watch({OLD: 5}, {OLD: 9}, {OLD: 9, NEW: 0}, {OLD: 9, NEW: 0}, {NEW: 4})
    assert seen.doubles == [] and seen.together == 2


def test_two_that_run_are_found_whatever_their_order() -> None:
    assert "ran twice: process 10 on n1 and process 20 on n2" in watch({OLD: 5}, {OLD: 9, NEW: 1}).doubles[0]
    assert watch({OLD: 5, NEW: 2}, {OLD: 5, NEW: 6}, {OLD: 9, NEW: 9}).doubles
    assert not watch({OLD: 5}, {OLD: 5, NEW: 2}, {OLD: 9, NEW: 2}).doubles


def test_when_a_guest_began_to_run() -> None:
    least = RUNNING_NS // RUNS_NS
    life = watch({NEW: 0}, {NEW: least - 1}, {NEW: least}, {NEW: 2 * least}).lives[NEW]
    assert (life.seen_s, life.running_s, life.last_s) == (0.0, 0.04, 0.06)
