"""Which backups a schedule keeps, and when it wants one: laws that hold for every history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.instants import month
from libs.common.messages import VmId
from proto.backup_plans import SCHEDULE, BackupPlan
from proto.backups import CHAIN_MAX, BackupKind
from services.io.backups.chain import chain, heirs, sound
from services.io.backups.plans import DAY_US, WAIT_US, again_us, due, retained
from services.io.backups.states import Backup, Hold
from tests.model.backup_story import DEFINITION, HOUR_US, MADE, T0, saved
from tests.model.test_cron import us

PLAN = BackupPlan(cron="0 2 * * *", pool="safe")


def backup(n: int, taken_us: int, parent: str = "", plan: str = SCHEDULE, damaged: str = "") -> Backup:
    kind = BackupKind.INCREMENTAL if parent else BackupKind.FULL
    return Backup(
        id=f"b1-{n}", kind=kind, pool="safe", pool_id="s1", disks=saved(MADE, f"b1-{n}"), definition=DEFINITION, taken_us=taken_us,
        parent=parent, plan=plan, damaged=damaged,
    )  # fmt: skip


rarely_not = st.sampled_from((True, True, True, True, False))


@st.composite
def catalogues(draw: Any) -> tuple[Backup, ...]:
    """Chains as they are taken; now and then one that somebody asked for, one that is damaged, a clock that went back."""
    found: list[Backup] = []
    at_us = T0
    for n in range(draw(st.integers(0, 30))):
        at_us += draw(st.sampled_from((HOUR_US, 6 * HOUR_US, DAY_US, DAY_US, 9 * DAY_US, -3 * DAY_US)))
        on = found[-1].id if found and draw(rarely_not) and len(chain(found, found[-1].id)) < CHAIN_MAX else ""
        plan, damaged = draw(st.sampled_from((SCHEDULE, SCHEDULE, SCHEDULE, ""))), draw(st.sampled_from(("",) * 9 + ("x",)))
        found.append(backup(n, at_us, on, plan, damaged))
    return tuple(found)


counts = st.sampled_from((0, 0, 1, 2, 3, 7))
plans = st.builds(
    lambda last, daily, weekly, monthly: replace(
        PLAN, keep_last=last, keep_daily=daily, keep_weekly=weekly, keep_monthly=monthly
    ),
    counts, counts, counts, counts,
)  # fmt: skip
every = given(catalogues(), plans, st.lists(st.integers(0, 29), max_size=2))


def held(backups: Sequence[Backup], numbers: Sequence[int]) -> tuple[Hold, ...]:
    return tuple(Hold(recovery=f"r{n}", backup=f"b1-{n}", target=VmId("c")) for n in numbers if n < len(backups))


def without(backups: Sequence[Backup], gone: Sequence[str]) -> tuple[Backup, ...]:
    """As the stream has them once these were deleted, one after the other."""
    left = tuple(backups)
    for id in gone:
        (one,) = (each for each in left if each.id == id)
        left = tuple(replace(each, parent=one.parent) if each.parent == id else each for each in left if each is not one)
    return left


@every
def test_the_newest_sound_one_stays(backups: tuple[Backup, ...], plan: BackupPlan, holds: list[int]) -> None:
    left = without(backups, retained(backups, held(backups, holds), plan))
    if best := sound(backups):
        assert best[-1].id in {one.id for one in sound(left)}
    else:
        assert left == backups


@every
def test_twice_lets_go_of_nothing_more(backups: tuple[Backup, ...], plan: BackupPlan, holds: list[int]) -> None:
    held_by = held(backups, holds)
    left = without(backups, retained(backups, held_by, plan))
    assert retained(left, held_by, plan) == ()


@every
def test_what_is_asked_for_by_hand_or_held_stays(backups: tuple[Backup, ...], plan: BackupPlan, holds: list[int]) -> None:
    held_by = held(backups, holds)
    gone = set(retained(backups, held_by, plan))
    stood_on = {one.id for hold in held_by for one in chain(backups, hold.backup)}
    assert not gone & (stood_on | {one.id for one in backups if not one.plan})


@every
def test_no_full_one_is_written_anew(backups: tuple[Backup, ...], plan: BackupPlan, holds: list[int]) -> None:
    """Each that goes is on something, or nothing is on it by then."""
    left = tuple(backups)
    for id in retained(backups, held(backups, holds), plan):
        (one,) = (each for each in left if each.id == id)
        assert one.parent or not heirs(left, id)
        left = without(left, [id])


@every
def test_counts_hold(backups: tuple[Backup, ...], plan: BackupPlan, holds: list[int]) -> None:
    """As many as there are, at most as many as are wished for; and none beside, but what has a reason to stay."""
    held_by = held(backups, holds)
    left = without(backups, retained(backups, held_by, plan))
    mine = [one for one in sound(backups) if one.plan]
    here = {one.id for one in left}
    if plan.keep_last:
        assert {one.id for one in mine[-plan.keep_last :]} <= here
    for keep, of in ((plan.keep_daily, lambda at: at // DAY_US), (plan.keep_monthly, month)):
        spans = list(dict.fromkeys(of(one.taken_us) for one in reversed(mine)))[:keep]
        for span in spans:
            assert [one for one in mine if of(one.taken_us) == span][-1].id in here
    if not plan.keeps_all and mine:
        asked = plan.keep_last + plan.keep_daily + plan.keep_weekly + plan.keep_monthly
        stood_on = {one.id for hold in held_by for one in chain(backups, hold.backup)}
        free = [one for one in sound(left) if one.plan and one.id not in stood_on and (one.parent or not heirs(left, one.id))]
        assert len(free) <= asked


def test_a_week_of_days_and_a_month_of_weeks() -> None:
    """Nightly for forty days, all of them full: the last seven, then Sundays, then ends of months."""
    start = us("2026-10-01T02:00")
    nights = tuple(backup(n, start + n * DAY_US) for n in range(40))  # 1 October to 9 November
    plan = replace(PLAN, keep_daily=7, keep_weekly=3, keep_monthly=2)
    left = without(nights, retained(nights, (), plan))
    days = [(one.taken_us - us("2026-10-01T00:00")) // DAY_US + 1 for one in left]
    assert days == [31, 32, *range(34, 41)], "31 October; Sundays 1 and 8 November; 3 to 9 November"


def test_a_damaged_one_fills_no_place_and_goes_when_all_that_is_kept_is_newer() -> None:
    three = tuple(backup(n, T0 + n * DAY_US, damaged="x" if n == 1 else "") for n in range(3))
    keep_two = replace(PLAN, keep_last=2)
    assert retained(three, (), keep_two) == ()
    four = (*three, backup(3, T0 + 3 * DAY_US))
    assert retained(four, (), keep_two) == ("b1-1", "b1-0")


def test_what_was_missed_counts_once_and_a_clock_that_goes_back_takes_none_twice() -> None:
    seen = us("2026-12-01T02:00")
    assert due(PLAN.cron, seen, us("2026-12-02T01:59")) == 0
    assert due(PLAN.cron, seen, us("2026-12-06T12:00")) == us("2026-12-06T02:00")
    assert due(PLAN.cron, us("2026-12-06T02:00"), us("2026-12-06T12:00")) == 0
    assert due(PLAN.cron, us("2026-12-06T02:00"), us("2026-12-03T12:00")) == 0


@given(st.lists(st.integers(-3 * 24, 5 * 24), max_size=30))
def test_each_time_is_seen_to_once_at_most(jumps: list[int]) -> None:
    """Whatever hours the clock jumps."""
    now_us = last_us = us("2026-12-01T02:00")
    seen: list[int] = []
    for hours in jumps:
        now_us += hours * HOUR_US
        if time_us := due(PLAN.cron, last_us, now_us):
            seen.append(time_us)
            last_us = time_us
    assert seen == sorted(set(seen))


def test_waits_double_up_to_the_next_time() -> None:
    now_us = us("2026-12-01T02:00")
    assert [again_us(n, now_us, PLAN.cron) - now_us for n in (1, 2, 3)] == [WAIT_US, 2 * WAIT_US, 4 * WAIT_US]
    assert again_us(1, us("2026-12-02T01:58"), PLAN.cron) == us("2026-12-02T02:00")
    assert again_us(99, now_us) - now_us == DAY_US
