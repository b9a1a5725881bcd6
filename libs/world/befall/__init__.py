"""What may befall a world, by the word of a step (`Step.do`). Each kind has a way in and a way out; what befalls the same thing
twice at once is undone when both are over.

    befall(world, step)      now; undone after `step.for_s`, where it can be undone
    heal(world)              all is undone at once
    KINDS                    the kinds, by word: processes.py, paths.py, fences.py,
                             guests.py, people.py, backups.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from libs.world.befall import backups, fences, guests, paths, people, processes
from libs.world.befall.kind import SECOND_US, Kind
from libs.world.story import BadStory, Step

if TYPE_CHECKING:
    from libs.world.world import World

ROLES = ("leader", "deputy")
"""among services: the process of ha that has the grantor's lock, and another"""
KINDS: dict[str, Kind] = {**processes.KINDS, **paths.KINDS, **fences.KINDS, **guests.KINDS, **people.KINDS, **backups.KINDS}


def befall(world: World, step: Step) -> None:
    """Raises BadStory where there is no such kind, or nobody of that name."""
    kind = check(step, world)
    world.befell(step)
    step = _named(world, step)
    if kind.out is None:
        kind.begin(world, step)
        return
    key = (step.do, step.who)
    world.holding[key] = world.holding.get(key, 0) + 1
    if world.holding[key] == 1:
        world.held[key] = step
        kind.begin(world, step)
    if step.for_s:
        world.net.after(round(step.for_s * SECOND_US), lambda: _over(world, key))


def _named(world: World, step: Step) -> Step:
    """Who grants, or waits to, is known by now."""
    to = str(step.more.get("to", ""))
    if step.who not in ROLES and to not in ROLES:
        return step
    leader = (world.paths.lock.holder or ("ha", 0))[0]
    deputy = next((name for name in ("ha", "ha2", "ha3") if name in world.services and name != leader), leader)
    names = dict(zip(ROLES, (leader, deputy), strict=True))
    more = {**step.more, "to": names.get(to, to)} if to else step.more
    return replace(step, who=names.get(step.who, step.who), more=more)


def _over(world: World, key: tuple[str, str]) -> None:
    if key not in world.holding:
        return
    world.holding[key] -= 1
    if world.holding[key] == 0:
        del world.holding[key]
        _undo(world, world.held.pop(key))


def _undo(world: World, step: Step) -> None:
    out = KINDS[step.do].out
    assert out is not None
    out(world, step)


def heal(world: World) -> None:
    world.holding.clear()
    held, world.held = world.held, {}
    for step in held.values():
        _undo(world, step)


def check(step: Step, world: World) -> Kind:
    """Raises BadStory."""
    kind = KINDS.get(step.do)
    if kind is None:
        raise BadStory(f"there is no kind {step.do!r} of step; there are: {', '.join(sorted(KINDS))}")
    names = _names(kind.who, world)
    if kind.who == "device" and not names:
        raise BadStory(f"a step {step.do!r} is of a fence device, and the story has none: fences = true")
    if kind.breaks == "guest" and world.guests is None:
        raise BadStory(f"a step {step.do!r} is of a guest at whose signs of life nobody looks: vitals = true")
    if (kind.who == "vm" and not step.who) or (names and step.who not in names and not (kind.who == "pool" and not step.who)):
        there = ", ".join(sorted(names)) or "vm-0 and so on"
        raise BadStory(f"a step {step.do!r} is of a {kind.who}, and {step.who!r} is none: {there}")
    if kind.who == "" and step.who:
        raise BadStory(f"a step {step.do!r} is of nobody, and `who` names {step.who!r}")
    if unknown := sorted(set(step.more) - set(kind.more)):
        raise BadStory(f"a step {step.do!r} does not know {unknown[0]!r}; it may have: {', '.join(kind.more) or 'nothing'}")
    return kind


def _names(who: str, world: World) -> tuple[str, ...]:
    nodes, services = tuple(world.agents), (*world.services, *(ROLES if world.ha else ()))
    pools, devices = tuple(world.areas), tuple(world.bmcs)
    named = {"node": nodes, "service": services, "process": nodes + services, "pool": pools, "device": devices}
    return named.get(who, ())
