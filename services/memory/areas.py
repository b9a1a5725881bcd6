"""The areas of a host: how its memory is kept apart between its own modules and the classes of VMs. Pure.

The modules and their sizes are a table (libs/memory/areas.py): a module's area is promised to it (min) before anything is promised
to VMs; its max is where it is stopped when it goes mad, so that it dies there and not the host. A class's area is promised what
its VMs are (min), and may hold at most what there is for VMs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from libs.common.decider import Refused
from libs.memory.areas import CONTROL_PLANE, HOST, SET_BY_HAND, SWAP
from libs.memory.promise import VMS, class_max_mib, guaranteed_mib
from proto.machine import Priority
from proto.memory import Area, Promise, Refusal


def for_classes(promises: Iterable[Promise], areas: Sequence[Area], capacity_mib: int) -> tuple[Area, ...]:
    """What the classes' cgroups are to hold now: what was promised to their VMs, and never more than there is for VMs."""
    own = dict.fromkeys(Priority, 0)
    for promise in promises:
        own[promise.priority] += guaranteed_mib(promise)
    limits = class_max_mib(areas)
    given = {area.name: area for area in areas}
    return tuple(
        Area(
            name=VMS + p.value,
            min_mib=own[p],
            low_mib=own[p],
            high_mib=given[VMS + p.value].high_mib if VMS + p.value in given else 0,
            max_mib=min(capacity_mib, limits.get(p, capacity_mib)),
        )
        for p in Priority
    )


def check(areas: Sequence[Area], memory_mib: int, control_plane: bool) -> None:
    """Raises Refused for areas that make no sense on a host of that size. control_plane: it runs there."""
    classes = {VMS + p.value for p in Priority}
    names = [area.name for area in areas]
    for area in areas:
        _check_one(area, classes)
    if len(names) != len(set(names)):
        twice = next(n for n in names if names.count(n) > 1)
        raise Refused(Refusal.BAD_AREAS, f"area {twice} is given {names.count(twice)} times", "give each area once")
    sum_mib = sum(area.min_mib for area in areas)
    if areas and HOST not in names:
        raise Refused(Refusal.BAD_AREAS, "no area is left for the host itself", "give an area named host")
    if areas and control_plane and CONTROL_PLANE not in names:
        raise Refused(
            Refusal.BAD_AREAS, "the control plane runs on this host and has no area", f"give an area named {CONTROL_PLANE}"
        )
    if CONTROL_PLANE in names and not control_plane:
        said = "no control plane runs on this host"
        raise Refused(
            Refusal.BAD_AREAS, said, f"leave {CONTROL_PLANE} out, or tell the agent its group (ASV_CONTROL_PLANE_GROUP)"
        )
    if areas and sum_mib >= memory_mib:
        said = f"the areas' min is {sum_mib} MiB together, the host has {memory_mib}"
        raise Refused(Refusal.BAD_AREAS, said, "leave memory for VMs")


def _check_one(area: Area, classes: set[str]) -> None:
    steps = (area.min_mib, area.low_mib, area.high_mib, area.max_mib)
    if min(steps) < 0:
        raise Refused(Refusal.BAD_AREAS, f"area {area.name} has a limit below 0 MiB", "give 0 for no limit")
    set_steps = [mib for mib in steps if mib]
    if set_steps != sorted(set_steps):
        said = f"area {area.name}: min {steps[0]}, low {steps[1]}, high {steps[2]}, max {steps[3]} MiB do not rise"
        raise Refused(Refusal.BAD_AREAS, said, "give min <= low <= high <= max, or 0 for no limit")
    if area.name.startswith(VMS):
        if area.name not in classes:
            known = ", ".join(sorted(classes))
            raise Refused(Refusal.BAD_AREAS, f"there is no class for area {area.name}", f"one of {known}")
        if area.min_mib or area.low_mib:
            said = f"area {area.name} has min or low of its own"
            raise Refused(Refusal.BAD_AREAS, said, "leave them 0: they follow from what its VMs were promised")
    elif area.name == SWAP:
        said = "the area of swap follows from the zram device that the node has"
        raise Refused(Refusal.BAD_AREAS, said, "leave it out; its agent's ASV_SWAP_MIB says how large the device is")
    elif area.name == HOST and (area.high_mib or area.max_mib):
        raise Refused(Refusal.BAD_AREAS, "the host itself cannot be held to a high or max", "give its min only")
    elif area.name not in SET_BY_HAND:
        raise Refused(Refusal.BAD_AREAS, f"there is no module {area.name[:80]!r}", f"one of {', '.join(SET_BY_HAND)}")
