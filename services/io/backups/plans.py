"""When a schedule wants a backup, when one is read again, and which it lets go. Pure.

Times that passed while io was away count once: the newest of them is made up for. A clock that goes back takes none twice: what was
seen to is a time of the schedule, not of the clock.

What is kept, of those that a schedule took and that are sound: the newest `keep_last`; the newest of each of the last `keep_daily`
days that have one; weeks and months likewise. Never let go are: those that somebody asked for, what a recovery stands on, and a
full one while another stands on it (to write that anew is to copy whole disks). A damaged one counts for nothing: it fills no
place, and goes once it is older than all that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from libs.common import cron
from libs.common.instants import month
from proto.backup_plans import BackupPlan
from services.io.backups.chain import by_id, chain
from services.io.backups.states import Backup, Hold, Schedule

DAY_US = 86_400_000_000
WAIT_US = 300_000_000
"""5 minutes until what failed is tried again; doubled by each further failure"""
WAIT_US_MAX = DAY_US


def due(expression: str, last_us: int, now_us: int) -> int:
    """The newest time in (last_us, now_us], in microseconds since the epoch; 0: there is none."""
    coming = cron.following(expression, last_us)
    return cron.latest(expression, now_us) if coming and coming <= now_us else 0


def wanted(schedule: Schedule, now_us: int) -> int:
    """The time for which a backup is to be taken now; 0: none is."""
    if schedule.taking.unsaid:
        return 0
    if coming := due(schedule.plan.cron, schedule.planned_us, now_us):
        return coming
    return schedule.planned_us if schedule.taking.failures and schedule.taking.until_us <= now_us else 0


def again_us(failures: int, now_us: int, expression: str = "") -> int:
    """When it is tried again after so many failures in a row; not after the next time of the schedule."""
    until = now_us + min(WAIT_US << min(failures - 1, 16), WAIT_US_MAX)
    coming = cron.following(expression, now_us) if expression else 0
    return min(until, coming) if coming else until


def unread(schedule: Schedule, backups: Sequence[Backup], now_us: int) -> tuple[str, int]:
    """The newest backup that is to be read again now, and the time for which; ("", 0): none."""
    verify = schedule.plan.verify
    time_us = due(verify, schedule.since_us, now_us) if verify else 0
    found = (one.id for one in reversed(backups) if one.checked_us < time_us and one.taken_us <= time_us)
    return next(((id, time_us) for id in found), ("", 0))


# --- what is kept ----------------------------------------------------------------------------------------------------------


def retained(backups: Sequence[Backup], holds: Iterable[Hold], plan: BackupPlan) -> tuple[str, ...]:
    """Those to delete, the newest first: so what stands on them is written anew as little as possible."""
    if plan.keeps_all:
        return ()
    known = by_id(backups)
    mine = [one for one in backups if one.plan and one.id not in _held(backups, holds)]
    sound = _sound(backups)
    kept = _kept([one for one in backups if one.plan and one.id in sound], plan)
    if not kept:
        return ()
    place = {one.id: n for n, one in enumerate(backups)}
    oldest = min(place[id] for id in kept)
    gone = {one.id for one in mine if one.id not in kept and (one.id in sound or place[one.id] < oldest)}
    stood_on = _stood_on(backups, known, gone)
    return tuple(one.id for one in reversed(mine) if one.id in gone and (one.parent or one.id not in stood_on))


def _kept(mine: Sequence[Backup], plan: BackupPlan) -> set[str]:
    kept = {one.id for one in mine[-plan.keep_last :]} if plan.keep_last else set()
    kept |= _newest_of(mine, plan.keep_daily, lambda at: at // DAY_US)
    kept |= _newest_of(mine, plan.keep_weekly, lambda at: (at // DAY_US + 3) // 7)  # the epoch's day was a Thursday
    return kept | _newest_of(mine, plan.keep_monthly, month)


def _newest_of(mine: Sequence[Backup], count: int, span: Callable[[int], int]) -> set[str]:
    """The newest of each of the last `count` spans that have one, by the log: a node's clock may go back."""
    found: dict[int, str] = {}
    for one in reversed(mine):
        if len(found) == count:
            break
        found.setdefault(span(one.taken_us), one.id)
    return set(found.values())


def _held(backups: Sequence[Backup], holds: Iterable[Hold]) -> set[str]:
    return {one.id for hold in holds for one in chain(backups, hold.backup)}


def _sound(backups: Sequence[Backup]) -> set[str]:
    """As chain.sound, in one walk: a parent is before its heirs."""
    found: set[str] = set()
    for one in backups:
        if not one.damaged and (not one.parent or one.parent in found):
            found.add(one.id)
    return found


def _stood_on(backups: Sequence[Backup], known: Mapping[str, Backup], gone: set[str]) -> set[str]:
    """Full ones on which one stands, however high, that stays."""
    root: dict[str, str] = {}
    for one in backups:
        root[one.id] = root.get(one.parent, one.parent) if one.parent in known else one.id
    return {root[one.id] for one in backups if one.id not in gone and root[one.id] != one.id}
