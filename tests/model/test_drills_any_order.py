"""Drills among everything that may happen, in any order, with each reaction said once or twice: in the end no VM of theirs is left,
no backup is held, and what they were drills of is as it was. A drill has one result."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from proto.drills import DrillFailed, DrillPassed, DrillWent, Went
from services.compute.states import Stopped
from services.io.states import NoDevices
from tests.model.drill_world import World

STORIES = 150
STEPS = 120


@pytest.mark.parametrize("seed", range(STORIES))
def test_nothing_is_left(seed: int) -> None:
    world = World(Random(seed))
    for _ in range(STEPS):
        world.chance()
    world.denied = False
    world.goes(steps=800)
    assert world.drill is None, world.drill
    assert not world.made() and not world.backups.holds and not world.io.drills.targets
    left = [name for name in world.events if name.startswith("devices-drill-")]
    assert all(isinstance(world.devices(name.removeprefix("devices-")), NoDevices) for name in left)
    assert isinstance(world.vm("a"), Stopped) and len(world.backups.backups) == 1
    results = Counter(event.drill for event in world.said if isinstance(event, DrillPassed | DrillFailed))
    asked = [event.drill for event in world.named("DrillRequested")]
    assert results == Counter(asked), "each has one result"
    assert Counter(event.drill for event in world.named("DrillCleaned")) == Counter(asked)
    over = set[str]()
    for event in world.said:
        if isinstance(event, DrillPassed | DrillFailed):
            over.add(event.drill)
        assert not (isinstance(event, DrillWent) and event.went is Went.DISKS and event.drill in over), "it is started no more"
    starts = Counter(event.vm for event in world.named("VmStarted"))
    assert all(count == 1 for vm, count in starts.items() if vm.startswith("drill-")), "none is started again"
