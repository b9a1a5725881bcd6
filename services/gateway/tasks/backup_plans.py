"""A schedule of backups that is set, as a task: done at once. What it does by itself is told by its backups. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import io

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

KIND = "backup-plan"


def backup_plans(s: _Story) -> bool:
    match s.event:
        case io.BackupPlanSet(vm=vm, plan=plan):
            s.at_once(KIND, vm, f"{vm} is backed up by itself at {plan.cron!r}" if plan else f"{vm} is backed up by itself no more")
        case io.BackupPutOff() | io.BackupUnchanged():
            pass
        case _:
            return False
    return True
