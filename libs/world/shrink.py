"""From a story in which something does not hold to a short one in which the same does not hold.

    short = shrunk(story, same(outcome.fault))

Greedy, in rounds until nothing helps any more: fewer steps, calmer network, fewer VMs and nodes, no turns, fewer seconds, rounder
figures. Each attempt is a play; at most PLAYS_MAX of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from libs.world.play import play
from libs.world.story import BadStory, Sky, Step, Story

PLAYS_MAX = 400

type Fails = Callable[[Story], bool]


def kind_of(fault: str) -> str:
    """What does not hold, without seed, step and names: `S1`, or what kind of bug."""
    said = re.sub(r"^seed \d+, step \d+: ", "", fault)
    return said.partition(":")[0] if re.match(r"[A-Z]\d+:", said) else re.sub(r"[\d']+", "", said)[:60]


def same(fault: str) -> Fails:
    """Whether a story fails as that one did."""
    wanted = kind_of(fault)

    def fails(story: Story) -> bool:
        try:
            found = play(story).fault
        except BadStory:
            return False
        return bool(found) and kind_of(found) == wanted

    return fails


def shrunk(story: Story, fails: Fails, plays_max: int = PLAYS_MAX) -> Story:
    """The given one where nothing shorter fails."""
    plays, again = 0, True
    while again:
        again = False
        for shorter in _shorter(story):
            if plays >= plays_max:
                return story
            plays += 1
            if fails(shorter):
                story, again = shorter, True
                break
    return story


def _shorter(story: Story) -> Iterator[Story]:
    """The greatest cuts first."""
    steps = story.steps
    for size in (len(steps) // 2, len(steps) // 4, 1):
        if size:
            for start in range(0, len(steps), size):
                yield replace(story, steps=steps[:start] + steps[start + size :])
    if story.sky != Sky():
        yield replace(story, sky=Sky())
        yield from (replace(story, sky=replace(story.sky, **{name: 0.0})) for name in ("lost", "late", "twice") if _of(story, name))
    if story.turns:
        yield replace(story, turns=())
        yield replace(story, turns=story.turns[:-1])
    if story.peace_s:
        yield replace(story, peace_s=0.0)
    if story.grantors > 1:
        yield replace(story, grantors=1)
    if story.fences and not any(step.do.startswith("fence_") for step in steps):
        yield replace(story, fences=False)
    if story.vitals and not any(step.do.startswith("guest_") for step in steps):
        yield replace(story, vitals=False)
    if story.pools == "two" and not any(step.who.startswith("sim") or "pool" in step.more for step in steps):
        yield replace(story, pools="shared")
    for vms in (1, 2, 3):
        if vms < story.vms and not any(_vm_of(step) >= vms for step in steps):
            yield replace(story, vms=vms)
    if story.seed:
        yield replace(story, seed=0)
    for seconds in (story.seconds / 2, story.seconds - 1.0):
        if seconds > 1.0:
            yield replace(story, seconds=round(seconds, 1))
    yield from _rounder(story)


def _of(story: Story, name: str) -> float:
    value: float = getattr(story.sky, name)
    return value


def _rounder(story: Story) -> Iterator[Story]:
    for n, step in enumerate(story.steps):
        for other in (replace(step, at=round(step.at, 1)), replace(step, for_s=float(round(step.for_s)))):
            if other != step and (other.for_s or not step.for_s):
                yield replace(story, steps=(*story.steps[:n], other, *story.steps[n + 1 :]))


def _vm_of(step: Step) -> int:
    """The number of the VM that it is of; -1: of none."""
    for name in (step.who, step.on_who, *str(step.more.get("after", "")).split(",")):
        if found := re.fullmatch(r"vm-(\d+)", name):
            return int(found[1])
    return -1
