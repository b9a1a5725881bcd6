"""A fork has the backups that the log knows: what is recovered, read again, taken or deleted there goes as in the first world."""

from __future__ import annotations

from typing import Any

import pytest

from libs.world.befall import befall
from libs.world.fork.fork import Fork, begin
from libs.world.play import started
from libs.world.story import Step, Story
from libs.world.world import World
from proto.backup_plans import BackupPlan, SetBackupPlan
from proto.families import REGISTRY
from tests.sim.test_fork import idle, slice_of

VM = "vm-0"
TWICE = (Step("backup", 1.0, VM), Step("backup", 4.0, VM))


def first(*more: Step, seconds: int = 10) -> World:
    world = started(Story(seed=3, vms=2, steps=(*TWICE, *more), seconds=seconds))
    world.run(seconds)
    return world


def forked(world: World, seed: int = 5) -> tuple[World, int]:
    """A fork that goes on, and the position from which it does."""
    slice = slice_of(world)
    other = Fork(slice).world(seed)
    begin(other)
    other.run(8)
    return other, slice.position


def since(world: World, position: int, *kinds: str) -> list[Any]:
    rows = world.log.read_all_now(position, 10**6)
    return [REGISTRY.event(row) for row in rows if row.type in kinds]


def over(world: World) -> None:
    idle(world)
    world.checker.settled()


def test_it_has_what_the_log_says_and_a_backup_that_follows_is_incremental() -> None:
    there = first()
    world, position = forked(there)
    mine = {key: made.done for key, made in there.pool.backups.items()}
    assert len(mine) == 2 and {key: made.done.disks for key, made in world.pool.backups.items()} == {
        key: done.disks for key, done in mine.items()
    }
    befall(world, Step("backup", who=VM))
    world.run(10)
    (taken,) = since(world, position, "backup_taken")
    assert taken.done.kind == "incremental" and taken.done.parent == since(world, 0, "backup_taken")[1].backup
    over(world)


@pytest.mark.parametrize("beside", ["", "made-1"])
def test_what_is_recovered_in_it_comes_home(beside: str) -> None:
    world, position = forked(first())
    if not beside:
        befall(world, Step("stop", who=VM))
        world.run(5)
    befall(world, Step("recover", who=VM, more={"beside": beside} if beside else {}))
    world.run(60)
    (ended,) = since(world, position, "recovery_ended")
    assert ended.end == "independent", ended
    over(world)


def test_a_vm_that_stood_on_a_backup_comes_home_in_it() -> None:
    there = first(Step("stop", 7.0, VM), Step("recover", 9.0, VM), seconds=9)
    while not since(there, 0, "disks_recovered"):
        there.run(0.05)
    there.run(0.5)
    world, position = forked(there)
    world.run(60)
    assert [one.end for one in since(world, position, "recovery_ended")] == ["independent"]
    over(world)


def test_one_is_deleted_and_its_heir_is_written_anew_and_one_that_rots_is_found() -> None:
    world, position = forked(first())
    befall(world, Step("backup_delete", who=VM, more={"age": 1}))
    world.run(15)
    assert len(since(world, position, "backup_deleted")) == 1 and len(world.pool.backups) == 1
    befall(world, Step("backup_rot", who=VM))
    befall(world, Step("backup_verify", who=VM))
    world.run(15)
    assert len(since(world, position, "backup_damaged")) == 1
    over(world)


def test_what_was_found_damaged_is_still_so() -> None:
    there = first(Step("backup_rot", 7.0, VM), Step("backup_verify", 8.0, VM), seconds=15)
    assert since(there, 0, "backup_damaged")
    world, position = forked(there)
    befall(world, Step("backup_verify", who=VM))
    world.run(15)
    assert since(world, position, "backup_damaged") and not since(world, position, "backup_verified")


def test_a_schedule_goes_on_in_it() -> None:
    there = first()
    there.ask("io", f"backups-{VM}", SetBackupPlan(vm=VM, plan=BackupPlan(cron="* * * * *", keep_last=2)))
    there.run(5)
    world, position = forked(there)
    world.run(300)
    assert len(since(world, position, "backup_taken")) >= 4 and since(world, position, "backup_deleted")
    assert not since(world, position, "backup_failed")
