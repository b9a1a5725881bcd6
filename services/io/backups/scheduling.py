"""How a schedule leads on, by what becomes of what it wanted. Pure; a part of evolving.py, and of io's view of all schedules."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import Value
from proto.backup_plans import BackupPlanSet, BackupPutOff, BackupUnchanged, Chore
from proto.backups import BackupDeleted, BackupDeleteFailed, BackupFailed, BackupRequested, BackupTaken
from services.io.backups.states import Activity, Deleting, Retry, Schedule, Taking

Ended = BackupTaken | BackupFailed | BackupDeleted | BackupDeleteFailed


class Mine(Value):
    """What is being done because of a schedule. given_up: somebody does not want it any more."""

    backup: str
    given_up: bool = False


def mine(doing: Activity | None) -> Mine | None:
    match doing:
        case Taking() if doing.wish.plan:
            return Mine(backup=doing.backup, given_up=bool(doing.cancelled_version))
        case Deleting(backup=id) if doing.plan:
            return Mine(backup=id)
        case _:
            return None


def after(schedule: Schedule | None, doing: Mine | None, event: Any) -> Schedule | None:
    """doing: before the event."""
    if isinstance(event, BackupPlanSet):
        return plan_set(schedule, event)
    if schedule is None:
        return None
    match event:
        case BackupPutOff():
            return put_off(schedule, event)
        case BackupUnchanged():
            return replace(begun(schedule, event.due_us), taking=Retry())
        case BackupRequested() if event.plan:
            return begun(schedule, event.due_us)
        case BackupTaken() | BackupFailed() | BackupDeleted() | BackupDeleteFailed() if doing and event.backup == doing.backup:
            return ended(schedule, event, given_up=doing.given_up)
        case _:
            return schedule


def ended(schedule: Schedule, event: Ended, *, given_up: bool) -> Schedule:
    """What somebody gave up is not tried again."""
    match event:
        case BackupFailed(sentence=said) if not given_up:
            return replace(schedule, taking=Retry(failures=schedule.taking.failures + 1, sentence=said))
        case BackupTaken() | BackupFailed():
            return replace(schedule, taking=Retry())
        case BackupDeleteFailed(sentence=said):
            return replace(schedule, letting=Retry(failures=schedule.letting.failures + 1, sentence=said))
        case BackupDeleted():
            return replace(schedule, letting=Retry())


def plan_set(schedule: Schedule | None, event: BackupPlanSet) -> Schedule | None:
    """Where its times are what they were, what is due still is; what had failed is tried at once, as the cause may be gone."""
    if event.plan is None:
        return None
    new = Schedule(plan=event.plan, since_us=event.at_us, planned_us=event.at_us)
    if schedule is None or schedule.plan.cron != event.plan.cron:
        return new
    owed = replace(schedule.taking, until_us=event.at_us) if schedule.taking.failures else Retry()
    since_us = schedule.since_us if schedule.plan.verify == event.plan.verify else event.at_us
    return replace(new, since_us=since_us, planned_us=schedule.planned_us, taking=owed)


def put_off(schedule: Schedule, event: BackupPutOff) -> Schedule:
    retry = Retry(failures=event.failures, until_us=event.until_us, sentence=event.sentence)
    if event.chore is Chore.DELETE:
        return replace(schedule, letting=retry)
    return replace(schedule, taking=retry, planned_us=max(schedule.planned_us, event.due_us))


def begun(schedule: Schedule, due_us: int) -> Schedule:
    """A backup for that time was asked for: failures before it count as long as it is the same time."""
    if due_us <= schedule.planned_us:
        return schedule
    return replace(schedule, planned_us=due_us, taking=Retry())
