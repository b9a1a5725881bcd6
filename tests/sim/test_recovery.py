"""VMs are backed up and recovered, in place and beside, while services, agents, nodes and guests die: in the end all that runs is
on disks of its own, and a backup is held exactly as long as disks stand on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from libs.world import faults
from libs.world.faults import Storm, story
from libs.world.world import World
from proto.compute import DeleteVm, StopVm
from proto.hardware import standing
from proto.io import DeleteBackup, RecoverVm, TakeBackup
from services.compute.states import Running
from services.io import recoveries, recovering
from services.io.backups.states import Backups
from services.io.states import Made
from services.node.drivers.simhome import BACKUP

BATCH = 10
STORM = Storm(commands=120, faults=15)
OTHERS = 0.45
"""how many commands are those of any storm"""
_any = faults._command


def people(world: World, random: Random, storm: Storm) -> Callable[[], None]:
    """Rather those that lead to a recovery: it takes a backup and a VM at rest."""
    if random.random() < OTHERS:
        return _any(world, random, storm)
    vm = f"vm-{random.randrange(storm.vms)}"
    beside = f"{vm}-beside"
    first, stop = f"b1-{random.randrange(1, 9)}", StopVm(vm=vm, deadline_s=0)
    backups: list[Any] = [TakeBackup(vm=vm, pool="default")] * 2 + [DeleteBackup(vm=vm, backup=first)]
    backups += [RecoverVm(vm=vm, target=vm, lose=vm)] * 3 + [RecoverVm(vm=vm, target=beside)] * 2
    asked = random.choice([*backups, stop, stop, StopVm(vm=beside, deadline_s=0), DeleteVm(vm=beside)])
    service, stream = ("io", f"backups-{vm}") if asked in backups else ("compute", f"vm-{asked.vm}")

    def ask() -> None:
        world.ask(service, stream, asked)

    return ask


@pytest.fixture
def recovered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    monkeypatch.setattr(faults, "_command", people)

    def play(seed: int, restores: int = 0) -> World:
        world = story(seed, STORM, restores=restores)
        held(world, exact=not restores)
        return world

    return play


def slots_of(world: World, service: str) -> Any:
    host = world.services[service].host
    assert host is not None
    return host.slots


def held(world: World, *, exact: bool) -> None:
    """exact: nothing of the log was lost."""
    slots = slots_of(world, "io")
    devices = {name.removeprefix("devices-"): slot.state for name, slot in slots.items() if isinstance(slot.state, Made)}
    stands = {vm for vm, made in devices.items() if any(map(standing, made.disks))}
    holds = {hold.target for slot in slots.values() if isinstance(slot.state, Backups) for hold in slot.state.holds}
    vms = slots_of(world, "compute")
    runs = {vm for vm in stands if isinstance(now := vms[f"vm-{vm}"].state, Running) and not now.pause_wanted}
    assert not runs, f"seed {world.seed}: {runs} are not home"
    assert not exact or holds == stands, f"seed {world.seed}: held for {holds}, and {stands} stand on backups"
    for disk in (disk for made in devices.values() for disk in made.disks if disk.made and not standing(disk)):
        on = [key for key in world.pool.keys(disk) if key.startswith(BACKUP)]
        assert not on, f"seed {world.seed}: {disk.file} is said to be home, and stands on {on}"
    former = {vm for vm, made in devices.items() if made.recovering is not None}
    assert former == stands, f"seed {world.seed}: {former} keep what they had, and {stands} stand on backups"


@pytest.mark.parametrize("first", range(8100, 8140, BATCH))
def test_what_runs_comes_home_and_no_backup_is_held_for_nothing(first: int, recovered: Callable[..., World]) -> None:
    types: Counter[str] = Counter()
    for seed in range(first, first + BATCH):
        types.update(one.type for one in recovered(seed).log.read_all_now(0, 10**6))
    assert types["disks_recovered"] > 10 and types["disks_home"] > 10, "the schedules show nothing"


def test_a_restored_log_loses_no_disk(recovered: Callable[..., World]) -> None:
    types: Counter[str] = Counter()
    for seed in range(8200, 8220):
        types.update(one.type for one in recovered(seed, restores=1).log.read_all_now(0, 10**6))
    assert types["incarnation_began"] and types["disks_home"], "the schedules show nothing"


def home_as_soon_as_anything_is_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovering, "note", lambda command, state: recovering._home(state, state.recovering) if state.recovering else ())


def nobody_lets_the_backup_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recoveries, "_end", lambda *_: TakeBackup(vm="nobody", pool="default"))


def never_home(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovering, "note", lambda command, state: ())


MUTANTS = [home_as_soon_as_anything_is_seen, nobody_lets_the_backup_go, never_home]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.__name__)
def test_each_guard_is_missed(
    mutant: Callable[[pytest.MonkeyPatch], None], recovered: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(8100, 8140):
            recovered(seed)
