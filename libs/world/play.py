"""Plays a story (story.py): a prepared world, what befalls it, peace, and what was told.

    outcome = play(read(Path("tests/scenarios/power-loss")))
    outcome.fault            "" or the invariant that did not hold, in a sentence with seed and step
    outcome.told             lines: seconds, what happened

A prepared world has its nodes, image and running VMs; it is made once for all stories that begin alike, and branched.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from libs.world.befall import befall, check, heal
from libs.world.branch import Mould
from libs.world.net import Weather
from libs.world.prepare import prepared
from libs.world.story import BadStory, Sky, Step, Story
from libs.world.tell import Line, tell
from libs.world.world import World

PREPARED_MAX = 96
IDLE_TRIES = 50
VARIANTS = 4
"""worlds that were prepared alike but for the moments at which everything began, and so beats: a story's seed chooses one"""
_prepared: dict[tuple[object, ...], Mould[World]] = {}


@dataclass(slots=True)
class Outcome:
    """What came of a story. deliveries: messages that came to somebody since it began."""

    story: Story
    world: World
    fault: str = ""
    told: list[Line] = field(default_factory=list)

    @property
    def deliveries(self) -> int:
        return self.world.net.deliveries

    @property
    def lines(self) -> list[str]:
        return [str(line) for line in self.told]

    @contextmanager
    def judging(self) -> Iterator[None]:
        """What an invariant, or the code that was run, has to complain of."""
        try:
            yield
        except Exception as broken:
            where = traceback.extract_tb(broken.__traceback__)[-1]
            said = str(broken) if str(broken).startswith("seed ") else f"bug: {broken!r} at {where.name}, line {where.lineno}"
            self.fault = said


def play(story: Story) -> Outcome:
    """Never raises for what the story brings about; BadStory where it is none."""
    outcome = Outcome(story, started(story))
    world = outcome.world
    with outcome.judging():
        for phase, turn in enumerate(story.turns, 1):
            world.run_to(turn.at)
            enter(world, story, phase)
        world.run_to(story.seconds)
        if story.peace_s:
            settle(outcome)
    outcome.told = tell(world)
    return outcome


def forget() -> None:
    """Prepared worlds: what follows is played by other code."""
    _prepared.clear()


def started(story: Story) -> World:
    """A world of its own at the story's beginning. Raises BadStory."""
    variant = story.seed % VARIANTS
    key = (
        variant, story.nodes, story.vms, story.pools, story.locking, story.node_mib, story.grantors, story.fences,
        story.vitals, tuple(sorted(story.ha.items())),
    )  # fmt: skip
    if (first := _prepared.get(key)) is None:
        if len(_prepared) >= PREPARED_MAX:
            _prepared.clear()
        first = _prepared[key] = Mould(prepared(story, variant))
    world = first.cast()
    world.seed = story.seed
    world.net.random.seed(story.seed)
    world.net.weather = weather(story.sky)
    steps = [named(world, step) for step in story.steps]
    for step in steps:
        check(step, world)
    world.waiting += [step for step in steps if step.on]
    enter(world, story, 0)
    return world


def enter(world: World, story: Story, phase: int) -> None:
    """What lies between the turn before and the next is to befall at its time; chance begins anew at a turn. Steps that wait for
    an event do so from the beginning."""
    ends = [0.0, *(turn.at for turn in story.turns), story.seconds + 1.0]
    if phase:
        world.net.random.seed(story.turns[phase - 1].seed)
    for step in (named(world, step) for step in story.steps):
        if not step.on and ends[phase] <= step.at < ends[phase + 1]:
            delay_us = world.start_us + round(step.at * 1e6) - world.net.now_us
            world.net.after(max(0, delay_us), partial(befall, world, step))


def named(world: World, step: Step) -> Step:
    """With VMs by their names. Raises BadStory."""
    after = step.more.get("after", "")
    if "@" not in f"{step.who}{step.on_who}{after}":
        return step
    more = {**step.more, "after": name_of(world, str(after))} if after else step.more
    return replace(step, who=name_of(world, step.who), on_who=name_of(world, step.on_who), more=more)


def name_of(world: World, word: str) -> str:
    if not word.startswith("@"):
        return word
    node, _, number = word[1:].partition(".")
    there, place = world.ran.get(node, ()), int(number or 1)
    if place > len(there):
        raise BadStory(f"{word} is no VM: on {node} run {', '.join(there) or 'none'}")
    return there[place - 1]


def weather(sky: Sky) -> Weather:
    commit_us = (300, max(300, round(sky.commit_ms * 1_000)))
    return Weather(late=sky.late, lost=sky.lost, twice=sky.twice, late_us=round(sky.late_s * 1e6), commit_us=commit_us)


def settle(outcome: Outcome) -> None:
    """All is well from now on; once things have had their time, all is checked. Raises AssertionError."""
    world = outcome.world
    calm(world)
    world.run(outcome.story.peace_s)
    for _ in range(IDLE_TRIES):
        if all(process.host is not None and process.host.idle() for process in world.services.values()):
            break
        world.run(0.02)  # some command is always just under way, now and then
    world.checker.settled()


def calm(world: World) -> None:
    world.waiting.clear()
    world.peace = True
    world.net.weather = Weather()
    heal(world)
    world.log.available = True
    world.relay.begin()
    for process in world.services.values():
        process.begin()
    for agent in world.agents.values():
        agent.power_on()
        agent.begin()
