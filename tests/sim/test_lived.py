"""What was foretold, beside what came of it: in the world that was forked, which goes on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from libs.past.memory import MemoryPast
from libs.world.befall import befall
from libs.world.fork.beats import Moment, beats
from libs.world.fork.slices import CannotFork, taken
from libs.world.play import started
from libs.world.story import Step, Story
from libs.world.whatif.__main__ import answers, moments
from libs.world.whatif.answer import Answer
from libs.world.whatif.lived import lived, moment
from libs.world.whatif.say import beside
from libs.world.whatif.variant import parsed
from libs.world.world import World
from services.ha.grantor import TICK_US


def foretold(seed: int, words: str = "--kill node/n2", tries: int = 5) -> tuple[World, Answer]:
    """The answer; its world has gone on to a moment of its own, at which it is struck."""
    world = started(Story(seed=seed, vms=5))
    world.grantor_us = TICK_US
    world.run(3)
    slice = asyncio.run(taken(MemoryPast(world.log)))
    (found,) = answers(slice, [parsed(words)], tries)
    world.run(1 + world.random.random())
    return world, found


@pytest.mark.parametrize("seed", range(8))
def test_a_loss_of_power_comes_as_it_was_foretold(seed: int) -> None:
    world, found = foretold(seed)
    when_us, position = world.net.now_us, world.log.head_now().position
    befall(world, Step(do="power", who="n2"))
    world.run(20)
    real = lived(found, world.log.read_all_now(position, 10**6), when_us)
    assert len(real.fates) == len(found.starts) > 0 and real.worst_s == 0.0
    assert real.placed == real.within == len(real.fates), list(beside(real))
    band, lost_s = real.lost["n2"]
    assert lost_s is not None and band.least_s <= lost_s <= band.most_s
    assert f"{real.placed} of {real.placed} VMs as foretold" in "\n".join(beside(real))


def test_what_came_otherwise_is_shown() -> None:
    world, found = foretold(1)
    when_us, position = world.net.now_us, world.log.head_now().position
    befall(world, Step(do="power", who="n2"))
    world.run(20)
    later = world.log.read_all_now(position, 10**6)
    first, second = found.starts[0], found.starts[1]
    sooner = replace(first.after, least_s=0.1, median_s=0.2, most_s=0.3)
    other = replace(found, starts=(replace(first, after=sooner), replace(second, node="n2")))
    real = lived(other, later, when_us)
    assert (real.placed, real.within) == (1, 0) and real.worst_s == real.fates[0].off_s > 4
    said = "\n".join(beside(real))
    assert "s later" in said and "elsewhere" in said and "1 of 2 VMs as foretold, 0 of them within" in said
    nothing = lived(replace(found, starts=()), later, when_us)
    assert nothing.placed == 0 and all(fate.node == "" and fate.foretold is None for fate in nothing.fates)


def test_where_nothing_can_be_compared() -> None:
    world, found = foretold(2, tries=1)
    with pytest.raises(CannotFork, match="nothing has come of it"):
        lived(found, (), world.net.now_us)
    with pytest.raises(CannotFork, match="before the moment that is asked about"):
        lived(found, (), found.at_us - 1)
    with pytest.raises(CannotFork, match="`soon` is no time: write when it happened"):
        moment("soon")
    assert moment("2026-11-20T14:03:07.5+00:00") == round(datetime(2026, 11, 20, 14, 3, 7, 500_000, UTC).timestamp() * 1e6)


def test_the_ends_of_the_band_are_among_the_trials() -> None:
    assert moments(2) == [Moment.CHANCE] * 2
    assert moments(3) == [Moment.CHANCE, Moment.EARLY, Moment.LATE]
    world = started(Story(seed=1))
    early, late = (beats(which, world.random, world.agents, ["n2"]) for which in (Moment.EARLY, Moment.LATE))
    assert early.watchdogs["n2"] == late.watchdogs["n2"] == 0
    assert early.watchdogs["n1"] < early.fault and late.watchdogs["n1"] > late.fault
