"""Many schedules out of one beginning: a tree of stories, as a model checker walks it.

    for schedule in grown(seed, Shape()):
        schedule.story       the whole path, to be played by itself: it gives the same log, to the byte (a test says so)
        schedule.held        deliveries on the whole path, from the story's beginning
        schedule.own         those of them that no schedule before it had: what was executed for it alone

At each turn a world is branched, chance begins anew, and what befalls from there on is drawn anew. The sum of `own` is what was
executed; a schedule's `held` is what it consists of. Two schedules of one tree have a beginning in common and differ from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from msgspec.structs import replace

from libs.world.branch import Mould
from libs.world.play import Outcome, enter, settle, started
from libs.world.story import Step, Story, Turn
from libs.world.world import World

type Draw = Callable[[Random, Story, int], tuple[Step, ...]]
"""what befalls in a phase (0: before the first turn) of a story that has come so far"""


PEACE_S = 30.0
PEACE_LONG_S = 60.0
"""where guests may hang, as it takes half a minute to be sure of one, and where a fence device may take a node away once more"""


@dataclass(frozen=True, slots=True)
class Shape:
    """turns: at which seconds the tree branches, widths: into how many. seconds: where schedules end. settled: of how many
    schedules one goes on in peace until all is settled and checked so (0: none). calm_s: until when only guests fail."""

    turns: tuple[float, ...] = (5.5, 7.0, 8.0)
    widths: tuple[int, ...] = (2, 2, 24)
    seconds: float = 8.4
    settled: int = 200
    calm_s: float = 0.0


@dataclass(slots=True)
class Schedule:
    """fault: what did not hold; types: events on the path, by wire name; kinds: what befell, by word; guards: what kept something
    from happening, and how often."""

    story: Story
    held: int
    own: int
    fault: str = ""
    types: Counter[str] = field(default_factory=Counter)
    kinds: tuple[str, ...] = ()
    guards: Counter[str] = field(default_factory=Counter)
    settled: bool = False


def grown(seed: int, story: Story, shape: Shape, draw: Draw) -> Iterator[Schedule]:
    """All schedules of one tree. story: what they have in common; its steps and turns are filled in."""
    random = Random(f"tree {seed}")
    root = replace(story, seed=seed, seconds=shape.seconds, peace_s=0.0)
    root = replace(root, steps=draw(random, root, 0))
    yield from _Tree(shape, draw, random).walk(started(root), root, 0, 0)


class _Tree:
    def __init__(self, shape: Shape, draw: Draw, random: Random) -> None:
        self.shape = shape
        self.draw = draw
        self.random = random
        self.leaves = random.randrange(max(1, shape.settled))

    def walk(self, world: World, story: Story, depth: int, counted: int) -> Iterator[Schedule]:
        """counted: deliveries on the way here that others were told to own."""
        until = self.shape.turns[depth] if depth < len(self.shape.turns) else self.shape.seconds
        outcome = Outcome(story, world)
        with outcome.judging():
            world.run_to(until)
        if outcome.fault or depth == len(self.shape.turns):
            yield self._leaf(world, story, outcome.fault, counted)
            return
        before, mould = world.net.deliveries, Mould(world)
        for n in range(self.shape.widths[depth]):
            last = n == self.shape.widths[depth] - 1
            branch = world if last else mould.cast()
            turn = Turn(until, self.random.randrange(1 << 30))
            steps = self.draw(self.random, story, depth + 1)
            longer = replace(story, turns=(*story.turns, turn), steps=(*story.steps, *steps))
            enter(branch, longer, depth + 1)
            yield from self.walk(branch, longer, depth + 1, counted if n == 0 else before)

    def _leaf(self, world: World, story: Story, fault: str, counted: int) -> Schedule:
        held = world.net.deliveries
        made = Schedule(story, held, held - counted, fault, world.checker.types, world.kinds(), world.guards)
        self.leaves += 1
        if not fault and self.shape.settled and self.leaves % self.shape.settled == 0:
            peace_s = PEACE_LONG_S if story.vitals or story.fences else PEACE_S
            made.story, made.types, made.guards = replace(story, peace_s=peace_s), made.types.copy(), made.guards.copy()
            outcome = Outcome(made.story, world)
            with outcome.judging():
                settle(outcome)
            made.fault, made.settled = outcome.fault, True
        return made
