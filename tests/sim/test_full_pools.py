"""Pools are full for a while, under generated faults: guests stand still, and in the end each one that is to run does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from libs.world.faults import Storm, story
from services.compute import space
from services.node import compare

STORM = Storm(commands=60, faults=12, fills=8, vms=5)
SEEDS = range(7100, 7130)


def test_guests_of_full_pools_go_on_whatever_else_breaks() -> None:
    types: Counter[str] = Counter()
    for seed in SEEDS:
        types.update(recorded.type for recorded in story(seed, STORM).log.read_all_now(0, 10**6))
    assert types["vm_ran_out_of_space"] > 20 and types["vm_space_regained"] > 20, "the schedules show nothing"


def test_where_nodes_have_pools_of_their_own_too() -> None:
    for seed in SEEDS[:10]:
        story(seed, STORM, apart=True)


def agents_never_look_for_room(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(compare, "_room", lambda *_: "")


def nobody_hears_that_it_goes_on(patch: pytest.MonkeyPatch) -> None:
    real = space.report
    patch.setattr(space, "report", lambda fact, vm, **more: real(fact, vm, **more) if fact.full else ())


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    agents_never_look_for_room,
    nobody_hears_that_it_goes_on,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError, match=r"L1"):
            for seed in SEEDS:
                story(seed, STORM)
