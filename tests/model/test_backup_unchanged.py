"""A VM at rest is not backed up again while its newest backup holds all that is on its disks; and is, once it may not hold all."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from proto.backup_plans import BackupPutOff, BackupUnchanged, TendBackups
from proto.backups import BackupDamaged, BackupKnown, BackupRequested
from services.io.backups.model import BACKUPS
from services.io.backups.plans import wanted
from tests.model.backup_story import RESTS, RUNS, after, backups
from tests.model.test_backup_schedules import DAY_US, MIN_US, NIGHT, PLAN, A, _report, planned, tick

IDLE = replace(RESTS, written=4)
"""generation 4 was the last that ran"""
SAME = BackupUnchanged(vm=A, backup="b1-2", due_us=NIGHT + DAY_US, at_us=NIGHT + DAY_US, generation=4)


def rests(known: BackupKnown = IDLE, incarnation: int = 1, night: int = 1) -> TendBackups:
    return replace(tick(NIGHT + night * DAY_US, backup=known), incarnation=incarnation)


def first(known: BackupKnown = IDLE) -> tuple[Any, ...]:
    """One was taken in the first night."""
    events: tuple[Any, ...] = (planned(PLAN),)
    events += after(*events, command=tick(NIGHT, backup=known))
    return (*events, *after(*events, command=_report(events, NIGHT + MIN_US)))


def test_it_is_not_backed_up_again_and_the_night_has_been_seen_to() -> None:
    told = backups.given(*first()).when(rests())
    told.then(SAME)
    state = BACKUPS.fold((*first(), SAME))
    assert state.schedule is not None and not wanted(state.schedule, NIGHT + DAY_US)
    backups.given(*first(), SAME).when(rests()).then()
    again = replace(SAME, due_us=NIGHT + 2 * DAY_US, at_us=NIGHT + 2 * DAY_US)
    backups.given(*first(), SAME).when(rests(night=2)).then(again)
    assert [one.id for one in state.backups] == ["b1-2"], "and stays, however few are kept"


DISKS = IDLE.disks
CHANGED = {
    "it ran, or may have": replace(IDLE, written=5),
    "it runs": replace(RUNS, written=4),
    "nobody knows who wrote": replace(IDLE, written=0),
    "a disk is another file": replace(IDLE, disks=(replace(DISKS[0], file="a-disk0.r1-9.qcow2"), *DISKS[1:])),
    "a disk was grown": replace(IDLE, disks=(replace(DISKS[0], size_mib=999), *DISKS[1:])),
    "it is defined otherwise": replace(IDLE, definition=replace(IDLE.definition, disks=())) if IDLE.definition else IDLE,
}


@pytest.mark.parametrize("known", CHANGED.values(), ids=CHANGED)
def test_it_is_backed_up_where_there_may_be_more(known: BackupKnown) -> None:
    (event,) = backups.given(*first()).when(rests(known)).events
    assert isinstance(event, BackupRequested)


def test_what_ran_may_be_lost_with_an_incarnation_of_the_log() -> None:
    (event,) = backups.given(*first()).when(rests(incarnation=2)).events
    assert isinstance(event, BackupRequested)


def test_one_of_a_guest_that_ran_or_that_is_damaged_or_elsewhere_is_none_that_holds_all() -> None:
    ran = first(replace(RUNS, written=4))
    assert isinstance(backups.given(*ran).when(rests()).events[0], BackupRequested)
    damaged = BackupDamaged(vm=A, backup="b1-2", found={"b1-2": "its file is gone"})
    assert isinstance(backups.given(*first(), damaged).when(rests()).events[0], BackupRequested)
    elsewhere = planned(replace(PLAN, pool="other"))
    room = replace(IDLE.room, name="other", id="o1") if IDLE.room is not None else None
    moved = backups.given(*first(), elsewhere).when(rests(replace(IDLE, room=room))).events
    assert isinstance(moved[0], BackupRequested) and moved[0].pool == "other"


def test_what_failed_before_is_over_with_it() -> None:
    full = replace(IDLE, room=replace(IDLE.room, free_mib=0)) if IDLE.room is not None else IDLE
    (off,) = backups.given(*first()).when(rests(full)).events
    assert isinstance(off, BackupPutOff)
    later = replace(rests(), now_us=off.until_us)
    (same,) = backups.given(*first(), off).when(later).events
    assert isinstance(same, BackupUnchanged)
    state = BACKUPS.fold((*first(), off, same))
    assert state.schedule is not None and not state.schedule.taking.failures
