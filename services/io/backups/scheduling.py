"""How a schedule leads on, by what becomes of what it wanted. Pure; a part of evolving.py, and of io's view of all schedules."""

from __future__ import annotations

from msgspec.structs import replace

from proto.backup_plans import BackupPlanSet, BackupPutOff, Chore, PlansEvent
from proto.backups import BackupDeleted, BackupDeleteFailed, BackupFailed, BackupRequested, BackupsEvent, BackupTaken
from proto.recovery import RecoveryEvent
from services.io.backups.states import Backups, Deleting, Retry, Schedule, Taking


def after(state: Backups, event: BackupsEvent | RecoveryEvent | PlansEvent) -> Schedule | None:
    """state: before it."""
    schedule, doing = state.schedule, state.doing
    if isinstance(event, BackupPlanSet):
        return plan_set(schedule, event)
    if schedule is None:
        return None
    match event, doing:
        case BackupPutOff(), _:
            return put_off(schedule, event)
        case BackupRequested(), _ if event.plan:
            return begun(schedule, event.due_us)
        case (BackupTaken(), Taking()) if doing.wish.plan:
            return replace(schedule, taking=Retry())
        case (BackupFailed(), Taking()) if doing.wish.plan:
            return failed(schedule, event.sentence, given_up=bool(doing.cancelled_version))
        case (BackupDeleted(), Deleting()) if doing.plan:
            return replace(schedule, letting=Retry())
        case (BackupDeleteFailed(), Deleting()) if doing.plan:
            return replace(schedule, letting=Retry(failures=schedule.letting.failures + 1, sentence=event.sentence))
        case _:
            return schedule


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


def failed(schedule: Schedule, sentence: str, *, given_up: bool = False) -> Schedule:
    """What somebody gave up is not tried again."""
    if given_up:
        return replace(schedule, taking=Retry())
    return replace(schedule, taking=Retry(failures=schedule.taking.failures + 1, sentence=sentence))
