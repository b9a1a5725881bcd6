"""What events say of schedules of backups. Pure."""

from __future__ import annotations

from typing import Any

from libs.common.instants import utc
from proto import io
from services.gateway.words import count


def of_backup_plans(event: Any) -> str:
    match event:
        case io.BackupPlanSet(plan=plan) if plan is not None:
            return f"it is to be backed up by itself {said(plan)}"
        case io.BackupPlanSet():
            return "it is backed up by itself no more; what was taken stays"
        case io.BackupUnchanged():
            what = f"none was taken for {utc(event.due_us)}: it has not run since {event.backup}, which holds all that there is"
            return f"{what} (generation {event.generation} was the last that might write them, then as now)"
        case io.BackupPutOff(chore=io.Chore.DELETE):
            return f"one that is kept no more could not be deleted, {_again(event)}"
        case io.BackupPutOff():
            return f"the backup that was due at {utc(event.due_us)} could not be taken, {_again(event)}"
        case _:
            return ""


def _again(event: io.BackupPutOff) -> str:
    return f"for the {_th(event.failures)} time, and that is tried again at {utc(event.until_us)}: {event.sentence}"


def _th(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def said(plan: io.BackupPlan) -> str:
    """`at "0 2 * * *" into pool safe; kept are the last 7 and one of each of 4 weeks`."""
    verify = f'; all are read again at "{plan.verify}"' if plan.verify else ""
    return f'at "{plan.cron}" into pool {plan.pool}; {kept(plan)}{verify}'


def kept(plan: io.BackupPlan) -> str:
    if plan.keeps_all:
        return "all are kept"
    spans = ((plan.keep_daily, "day"), (plan.keep_weekly, "week"), (plan.keep_monthly, "month"))
    parts = [f"the last {plan.keep_last}"] if plan.keep_last else []
    parts += [f"one of each of {count(keep, span)}" for keep, span in spans if keep]
    return f"kept are {' and '.join(parts)}"
