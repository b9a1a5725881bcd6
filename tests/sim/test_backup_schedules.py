"""Schedules of backups in the world: services and agents run verbatim, io and a node die, the network loses what it is given; there
is one backup for each time that could be kept, and what is kept is what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from libs.world.net import Weather
from libs.world.world import World
from proto.backup_plans import BackupPlan, SetBackupPlan
from proto.backups import BackupDeleted, BackupRequested, BackupTaken, BackupVerified
from proto.compute import DefineVm, StartVm
from proto.families import REGISTRY
from proto.machine import DiskWish
from services.io.backups.model import BACKUPS
from services.io.backups.states import Backups
from services.node.drivers.simparams import SimParams

EVERY_S = 300
PLAN = BackupPlan(cron="*/5 * * * *", pool="default", keep_last=3, full_every=3, verify="*/15 * * * *")


def world(seed: int = 1, weather: Weather | None = None) -> World:
    made = World(seed, ("n1", "n2"), SimParams(), weather or Weather())
    made.begin()
    made.run(10.0)
    for vm in ("a", "b"):
        made.ask("compute", f"vm-{vm}", DefineVm(vm=vm, vcpus=1, memory_mib=256, disks=(DiskWish(size_mib=64),)))
    made.run(3.0)
    for vm in ("a", "b"):
        made.ask("compute", f"vm-{vm}", StartVm(vm=vm))
    made.run(25.0)
    for vm in ("a", "b"):
        made.ask("io", f"backups-{vm}", SetBackupPlan(vm=vm, plan=PLAN))
    made.run(3.0)
    return made


def events(made: World, kind: type, vm: str = "a") -> list[Any]:
    rows = (r for r in made.log.read_all_now(0, 10**6) if r.stream == f"backups-{vm}")
    return [event for event in map(REGISTRY.event, rows) if isinstance(event, kind)]


def state(made: World, vm: str = "a") -> Backups:
    found: list[Any] = [REGISTRY.event(r) for r in made.log.read_all_now(0, 10**6) if r.stream == f"backups-{vm}"]
    return BACKUPS.fold(found)


def times(made: World, vm: str = "a") -> list[int]:
    """Of the schedule, of what was taken."""
    taken = {event.backup for event in events(made, BackupTaken, vm)}
    return [event.due_us // 1_000_000 for event in events(made, BackupRequested, vm) if event.backup in taken]


def test_an_hour_goes_by() -> None:
    made = world()
    made.run(3600.0)
    for vm in ("a", "b"):
        found = times(made, vm)
        assert len(found) == 12 and found == list(range(found[0], found[0] + 12 * EVERY_S, EVERY_S))
        kept, stands = state(made, vm).backups, {one.parent for one in state(made, vm).backups}
        assert [one.due_us // 1_000_000 for one in kept][-3:] == found[-3:]
        assert len([one for one in kept if one.parent or one.id not in stands]) <= 3
        assert len(events(made, BackupDeleted, vm)) == 12 - len(kept)
        assert events(made, BackupVerified, vm)


def test_times_that_were_missed_while_io_was_away_count_once() -> None:
    made = world()
    made.run(EVERY_S + 60.0)
    before = times(made)
    made.services["io"].crash()
    made.run(4 * EVERY_S)
    assert times(made) == before
    made.services["io"].begin()
    made.run(120.0)
    found = times(made)
    assert len(found) == len(before) + 1, "they were not made up for once"
    made.run(2 * EVERY_S)
    assert times(made)[len(found) :] == [found[-1] + EVERY_S, found[-1] + 2 * EVERY_S]


@pytest.mark.parametrize("seed", range(6))
def test_io_dies_as_a_backup_is_decided_and_the_network_loses(seed: int) -> None:
    """Whatever is lost or said twice: none for a time that had one, and in the end it goes on."""
    made = world(seed, Weather(lost=0.1, twice=0.1))
    for _ in range(4):
        asked = len(events(made, BackupRequested))
        for _ in range(2 * EVERY_S * 10):
            made.run(0.1)
            if len(events(made, BackupRequested)) > asked:
                break
        made.services["io"].crash()
        made.run(2.0)
        made.services["io"].begin()
        made.run(60.0)
    found = times(made)
    assert len(found) == len(set(found)) >= 4
    assert state(made).doing is None
