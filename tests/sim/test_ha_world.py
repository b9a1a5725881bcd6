"""Nodes that are lost, isolated, stopped or come back late, while processes die, clocks drift and storage stalls: trees of
schedules through the production code (libs/world/storms.py). A schedule that ever fails becomes a scenario (tests/scenarios)."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from libs.world.census import FAULTS
from libs.world.play import play
from libs.world.storms import FAULTS as ODDS
from libs.world.storms import PLOTS, Storm, begun
from libs.world.story import Step, Story, parsed, written
from libs.world.tree import Schedule, Shape, grown
from tests.sim.__main__ import HANGS, shape_of

SHAPE = Shape(settled=8)
LONG = Shape(turns=(7.0,), widths=(3,), seconds=30.0, settled=1)


def schedules(seeds: range, shape: Shape) -> list[Schedule]:
    made = [schedule for seed in seeds for schedule in grown(seed, begun(seed), shape, Storm(shape))]
    faults = [f"tree {one.story.seed}: {one.fault}" for one in made if one.fault]
    assert not faults, faults[0]
    return made


@pytest.mark.parametrize("first", range(8))
def test_around_a_failover_every_invariant_holds(first: int) -> None:
    assert len(schedules(range(2 * first, 2 * first + 2), SHAPE)) > 40


@pytest.mark.parametrize("first", range(500, 504))
def test_long_after_it_all_has_settled(first: int) -> None:
    assert schedules(range(first, first + 1), LONG)


@pytest.mark.parametrize("seed", (19, 49))
def test_guests_that_hang_are_found_around_a_failover(seed: int) -> None:
    """Those that were followed until all has settled have none that is dead left, and none that lived was ended (S14, L3)."""
    assert begun(seed).vitals and shape_of(seed) is HANGS
    made = schedules(range(seed, seed + 1), replace(HANGS, settled=8))
    assert any(one.types["verdict_reached"] and one.types["node_lost"] for one in made)


def test_whatever_breaks_may_be_drawn() -> None:
    drawn = {odds.do for odds in ODDS} | {do for plot in PLOTS for do in plot.does}
    assert FAULTS - drawn == set()


def test_a_schedule_of_a_tree_is_a_story_of_its_own() -> None:
    for schedule in islice(grown(3, begun(3), SHAPE, Storm(SHAPE)), 6):
        outcome = play(schedule.story)
        assert outcome.fault == schedule.fault
        alike = (outcome.deliveries, outcome.world.checker.types) == (schedule.held, schedule.types)
        assert alike or schedule.settled  # what is settled goes on a while
        assert play(parsed(written(schedule.story))).lines == outcome.lines


def test_what_is_counted_as_its_own_was_executed_for_it_alone() -> None:
    made = list(grown(5, begun(5), Shape(settled=0), Storm(Shape())))
    assert made[0].own == made[0].held
    assert all(0 <= one.own < one.held for one in made[1:])


def test_one_seed_is_one_tree() -> None:
    first, second = (list(grown(7, begun(7), Shape(settled=0), Storm(Shape()))) for _ in range(2))
    assert [(one.story, one.held, one.types) for one in first] == [(one.story, one.held, one.types) for one in second]


def test_nothing_that_befalls_the_control_plane_alone_pauses_a_vm() -> None:
    """A whole minute of it (S6 is looked at all the while)."""
    steps = (Step("control_down", at=1.0, for_s=60.0), Step("bus_away", at=2.0, for_s=10.0))
    outcome = play(Story(seed=1, vms=6, seconds=70.0, locking=False, steps=steps))
    assert not outcome.fault
    assert not outcome.world.checker.types["vm_stopped"]
