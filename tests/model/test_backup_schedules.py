"""A schedule in a VM's stream: set, seen to by ticks, put off where it fails; one thing at a time."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import VmId
from proto.backup_plans import (
    SCHEDULE,
    BackupPlan,
    BackupPlanSet,
    BackupPutOff,
    Chore,
    PlanKnown,
    SetBackupPlan,
    TendBackups,
    TendKnown,
    Worker,
)
from proto.backups import (
    BackupCancelRequested,
    BackupDamaged,
    BackupDeleted,
    BackupDeleteFailed,
    BackupDeleteRequested,
    BackupFailed,
    BackupRequested,
    BackupVerifyRequested,
    CancelBackup,
    ReportBackup,
    ReportBackupRemoved,
)
from proto.devices import VmPhase
from proto.io import Refusal
from proto.pools import PoolKind, PoolRoom
from services.io.backups.model import BACKUPS
from tests.model.backup_story import ROOM, RUNS, TAKE, after, backups, doing, reported, story
from tests.model.test_cron import us

A = VmId("a")
SET_US, NIGHT = us("2026-12-01T12:00"), us("2026-12-02T02:00")
DAY_US, MIN_US = 86_400_000_000, 60_000_000
PLAN = BackupPlan(cron="0 2 * * *", pool="safe")
KNOWN = PlanKnown(defined=True, nodes=("n1", "n2"), room=ROOM, at_us=SET_US)
SET = SetBackupPlan(vm="a", plan=PLAN, known=KNOWN)
IS_SET = BackupPlanSet(vm=A, at_us=SET_US, plan=PLAN)
WORKERS = (Worker(pool="safe", pool_id="s1", node="n2", room=ROOM),)


def tick(at_us: int, **known: Any) -> TendBackups:
    """It may do anything: its turn has come, and who could work is known."""
    return TendBackups(vm="a", now_us=at_us, turn=True, known=replace(TendKnown(backup=RUNS, workers=WORKERS), **known))


def planned(plan: BackupPlan) -> BackupPlanSet:
    return replace(IS_SET, plan=plan)


def nights(plan: BackupPlan, count: int) -> tuple[Any, ...]:
    """So many nights in a row all goes well. How far retention has come is not looked at."""
    events: tuple[Any, ...] = (planned(plan),)
    for n in range(count):
        asked = after(*events, command=tick(NIGHT + n * DAY_US))
        assert isinstance(asked[0], BackupRequested)
        events = (*events, *asked)
        events += after(*events, command=_report(events, NIGHT + n * DAY_US + MIN_US))
    return events


def _report(events: tuple[Any, ...], at_us: int, sentence: str = "") -> ReportBackup:
    found = reported(events, at_us)
    return replace(found, done=None, sentence=sentence) if sentence else found


# --- set ---------------------------------------------------------------------------------------------------------------------


def test_it_is_set_and_taken_back() -> None:
    backups.given().when(SET).then(IS_SET).twice()
    backups.given(IS_SET).when(replace(SET, plan=None)).then(replace(IS_SET, plan=None)).twice()
    backups.given().when(replace(SET, plan=None)).nothing()


@pytest.mark.parametrize(
    ("command", "refusal", "said"),
    [
        (replace(SET, plan=replace(PLAN, cron="0 25 * * *")), Refusal.BAD_TIME, "the time of its backups, '0 25 * * *'"),
        (replace(SET, plan=replace(PLAN, verify="never")), Refusal.BAD_TIME, "the time to verify them, 'never'"),
        (replace(SET, known=replace(KNOWN, defined=False)), Refusal.NOT_DEFINED, "no VM named a"),
        (replace(SET, known=replace(KNOWN, nodes=())), Refusal.POOL_UNKNOWN, "no node has a pool safe"),
        (replace(SET, known=replace(KNOWN, room=replace(ROOM, kind=PoolKind.RBD))), Refusal.BAD_DEVICE, "is rbd"),
        (replace(SET, known=replace(KNOWN, room=replace(ROOM, kind=PoolKind.NBD))), Refusal.BAD_DEVICE, "no export for backups"),
    ],
)
def test_what_is_refused(command: SetBackupPlan, refusal: Refusal, said: str) -> None:
    outcome = backups.given().when(command).refused(refusal)
    assert outcome.refusal is not None and said in outcome.refusal.sentence
    if refusal is Refusal.BAD_TIME:
        assert '"0 2 * * *"' in outcome.refusal.remedy


def test_the_same_times_keep_what_is_due() -> None:
    """What failed is tried at once, as the change may have been for its sake."""
    events = (*nights(PLAN, 1), BackupPutOff(
        vm=A, chore=Chore.TAKE, due_us=NIGHT + DAY_US, failures=3, until_us=NIGHT + 2 * DAY_US, sentence="full"
    ))  # fmt: skip
    later_us = NIGHT + DAY_US + 60 * MIN_US
    backups.given(*events).when(tick(later_us)).nothing()
    other = BackupPlanSet(vm=A, at_us=later_us, plan=replace(PLAN, pool="other"))
    assert isinstance(after(*events, other, command=tick(later_us))[0], BackupRequested)
    moved = BackupPlanSet(vm=A, at_us=later_us, plan=replace(PLAN, cron="0 3 * * *"))
    backups.given(*events, moved).when(tick(later_us)).nothing()


# --- taken -------------------------------------------------------------------------------------------------------------------


def test_one_is_taken_when_its_time_has_come_and_once() -> None:
    given = backups.given(IS_SET)
    given.when(tick(NIGHT - 1)).nothing()
    (event,) = given.when(tick(NIGHT)).events
    assert isinstance(event, BackupRequested)
    assert (event.plan, event.due_us, event.pool) == (SCHEDULE, NIGHT, "safe")
    there = nights(PLAN, 1)
    for later_us in (NIGHT + 2 * MIN_US, NIGHT + DAY_US - 1, NIGHT - DAY_US):
        backups.given(*there).when(tick(later_us)).nothing()


def test_what_was_missed_is_made_up_for_once() -> None:
    events = nights(PLAN, 1)
    late_us = NIGHT + 5 * DAY_US + 60 * MIN_US
    (event,) = after(*events, command=tick(late_us))
    assert event.due_us == NIGHT + 5 * DAY_US
    events = (*events, event)
    events += after(*events, command=_report(events, late_us))
    backups.given(*events).when(tick(late_us + MIN_US)).nothing()


def test_it_waits_for_its_turn_and_for_a_vm_on_its_way() -> None:
    backups.given(IS_SET).when(replace(tick(NIGHT), turn=False)).nothing()
    moving = replace(RUNS, phase=VmPhase.MIGRATING)
    backups.given(IS_SET).when(tick(NIGHT, backup=moving)).nothing()
    backups.given(IS_SET).when(replace(tick(NIGHT), known=TendKnown())).nothing()  # there is no such VM any more


def test_of_so_many_one_is_full() -> None:
    state = BACKUPS.fold(nights(replace(PLAN, full_every=3), 7))
    assert [one.kind for one in state.backups] == ["full", "incremental", "incremental"] * 2 + ["full"]
    each = BACKUPS.fold(nights(replace(PLAN, full_every=1), 3))
    assert {one.kind for one in each.backups} == {"full"}


def test_what_cannot_be_taken_is_said_and_tried_again_later() -> None:
    full = replace(RUNS, room=PoolRoom(name="safe", id="s1", size_mib=1000, free_mib=0))
    events: tuple[Any, ...] = (IS_SET,)
    now_us, waited = NIGHT, []
    for failures in (1, 2, 3):
        (off,) = after(*events, command=tick(now_us, backup=full))
        assert isinstance(off, BackupPutOff)
        assert (off.chore, off.due_us, off.failures) == (Chore.TAKE, NIGHT, failures)
        assert "safe" in off.sentence
        events += (off,)
        backups.given(*events).when(tick(off.until_us - 1)).nothing()
        waited.append((off.until_us - now_us) // MIN_US)
        now_us = off.until_us
    assert waited == [5, 10, 20]
    (event,) = after(*events, command=tick(now_us))
    assert event.due_us == NIGHT
    (off,) = after(*events, command=tick(NIGHT + DAY_US, backup=full))
    assert (off.due_us, off.failures) == (NIGHT + DAY_US, 1)


def test_one_that_failed_is_told_when_it_is_tried_again() -> None:
    events: tuple[Any, ...] = (IS_SET,)
    events += after(*events, command=tick(NIGHT))
    events += after(*events, command=_report(events, NIGHT, "the disk broke"))
    assert isinstance(events[-1], BackupFailed)
    an_hour_us = NIGHT + 60 * MIN_US
    (off,) = after(*events, command=tick(an_hour_us))
    assert off == BackupPutOff(
        vm=A, chore=Chore.TAKE, due_us=NIGHT, failures=1, until_us=an_hour_us + 5 * MIN_US, sentence="the disk broke"
    )
    events += (off,)
    backups.given(*events).when(tick(off.until_us - 1)).nothing()
    again = after(*events, command=tick(off.until_us))
    assert again[0].due_us == NIGHT
    events += again
    events += after(*events, command=_report(events, off.until_us, "the disk broke"))
    (off,) = after(*events, command=tick(off.until_us))
    assert (off.failures, off.until_us) == (2, an_hour_us + 15 * MIN_US)


def test_what_somebody_gave_up_is_not_tried_again() -> None:
    events: tuple[Any, ...] = (IS_SET,)
    events += after(*events, command=tick(NIGHT))
    events += after(*events, command=CancelBackup(vm="a", backup=events[-1].backup))
    assert isinstance(events[-1], BackupCancelRequested)
    order_version = BACKUPS.fold(events).version
    removed = ReportBackupRemoved(vm="a", node=events[1].node, backup=events[1].backup, order_version=order_version)
    events += after(*events, command=removed)
    backups.given(*events).when(tick(NIGHT + 60 * MIN_US)).nothing()
    assert after(*events, command=tick(NIGHT + DAY_US))[0].due_us == NIGHT + DAY_US


# --- read again, let go --------------------------------------------------------------------------------------------------------


def test_each_chain_is_read_again_once() -> None:
    plan = replace(PLAN, full_every=2, verify="0 4 * * *")
    events = nights(plan, 3)  # two chains: of two, and of one
    now_us = NIGHT + 2 * DAY_US + 120 * MIN_US
    read = []
    for _ in range(2):
        (asked,) = after(*events, command=tick(now_us))
        assert isinstance(asked, BackupVerifyRequested) and asked.due_us == now_us
        read.append(asked.backup)
        events += (asked,)
        events += (BackupDamaged(vm=A, backup=asked.backup, found={asked.backup: "bit"}),)
    ids = [one.id for one in BACKUPS.fold(events).backups]
    assert read == [ids[2], ids[1]]
    backups.given(*events).when(tick(now_us)).nothing()


def test_reading_again_that_somebody_gave_up_is_over_for_this_time() -> None:
    events = nights(replace(PLAN, verify="0 4 * * *"), 1)
    four = NIGHT + 120 * MIN_US
    events += after(*events, command=tick(four))
    events += after(*events, command=CancelBackup(vm="a", backup=events[-1].backup))
    backups.given(*events).when(tick(four + MIN_US)).nothing()


def test_another_node_goes_on_reading_for_the_same_time() -> None:
    events = nights(replace(PLAN, verify="0 4 * * *"), 1)
    four = NIGHT + 120 * MIN_US
    events += after(*events, command=tick(four))
    events += (replace(events[-1], node="n1", due_us=0), BackupDamaged(vm=A, backup=events[-1].backup, found={}))
    backups.given(*events).when(tick(four + MIN_US)).nothing()


def test_one_after_the_other_is_let_go() -> None:
    events = nights(replace(PLAN, keep_last=2, full_every=2), 6)
    ids, gone = [one.id for one in BACKUPS.fold(events).backups], []
    now_us = NIGHT + 6 * DAY_US - 60 * MIN_US
    while asked := after(*events, command=tick(now_us)):
        (one,) = asked
        assert isinstance(one, BackupDeleteRequested) and one.plan == SCHEDULE and not one.heirs
        gone.append(one.backup)
        events += (one, BackupDeleted(vm=A, backup=one.backup))
    assert gone == [ids[3], ids[2], ids[1], ids[0]]


def test_what_could_not_be_deleted_waits_and_a_backup_does_not_wait_for_it() -> None:
    events = nights(replace(PLAN, keep_last=1, full_every=1), 2)
    now_us = NIGHT + DAY_US + 60 * MIN_US
    events += after(*events, command=tick(now_us))
    events += (BackupDeleteFailed(vm=A, backup=events[-1].backup, sentence="busy"),)
    (off,) = after(*events, command=tick(now_us))
    assert (off.chore, off.failures, off.until_us, off.sentence) == (Chore.DELETE, 1, now_us + 5 * MIN_US, "busy")
    events += (off,)
    backups.given(*events).when(tick(off.until_us - 1)).nothing()
    assert isinstance(after(*events, command=tick(off.until_us))[0], BackupDeleteRequested)
    late = replace(off, until_us=NIGHT + 9 * DAY_US)
    assert isinstance(after(*events[:-1], late, command=tick(NIGHT + 2 * DAY_US))[0], BackupRequested)


def test_a_node_that_does_much_is_spared() -> None:
    events = nights(replace(PLAN, keep_last=1, full_every=1, verify="0 4 * * *"), 2)
    busy = tuple(replace(worker, busy=2) for worker in WORKERS)
    backups.given(*events).when(tick(NIGHT + DAY_US + 180 * MIN_US, workers=busy)).nothing()


def test_meanwhile_nothing_else_is_done() -> None:
    events = (IS_SET, *story(TAKE, begin=())[:1])
    assert doing(events) is not None
    backups.given(*events).when(tick(NIGHT)).nothing()
    events = nights(replace(PLAN, keep_last=1, full_every=1, verify="0 4 * * *"), 2)
    later_us = NIGHT + DAY_US + 180 * MIN_US
    assert isinstance(after(*events, command=tick(later_us))[0], BackupVerifyRequested)
    events += after(*events, command=replace(TAKE, known=RUNS))
    backups.given(*events).when(tick(later_us)).nothing()


def test_without_a_schedule_nothing_is_done_and_what_asks_by_hand_is_kept() -> None:
    by_hand = story(TAKE, TAKE, TAKE)
    backups.given(*by_hand).when(tick(NIGHT)).nothing()
    events = (*by_hand, planned(replace(PLAN, keep_last=1)))
    backups.given(*events).when(tick(SET_US)).nothing()


def test_its_state_survives_the_wire() -> None:
    events = nights(replace(PLAN, verify="0 4 * * *"), 2)
    given = backups.given(*events, BackupPutOff(vm=A, chore=Chore.TAKE, due_us=1, failures=1, until_us=2, sentence="x"))
    given.survives_the_wire()
