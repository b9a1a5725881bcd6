"""A part of io's view of itself: the schedules of all VMs, as their streams have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from msgspec.structs import replace

from libs.common.host import hearing
from proto.backup_plans import BackupPlanSet, BackupPutOff, BackupUnchanged
from proto.backups import (
    BackupCancelRequested,
    BackupDeleted,
    BackupDeleteFailed,
    BackupDeleteRequested,
    BackupFailed,
    BackupRequested,
    BackupTaken,
)
from services.io.backups import scheduling
from services.io.backups.scheduling import Mine
from services.io.backups.states import Schedule


@dataclass(slots=True)
class PlanViews:
    """Both by VM. doing: what is being done because of them."""

    schedules: dict[str, Schedule] = field(default_factory=dict)
    doing: dict[str, Mine] = field(default_factory=dict)

    def _heard(self, event: Any) -> None:
        vm = event.vm
        doing = self.doing.get(vm)
        schedule = scheduling.after(self.schedules.get(vm), doing, event)
        if schedule is None:
            self.schedules.pop(vm, None)
        else:
            self.schedules[vm] = schedule
        if (now := _doing(doing, event)) is None:
            self.doing.pop(vm, None)
        else:
            self.doing[vm] = now

    HEARS: ClassVar[hearing.Heard] = dict.fromkeys(
        (
            *(BackupPlanSet, BackupPutOff, BackupUnchanged, BackupRequested, BackupCancelRequested, BackupTaken, BackupFailed),
            *(BackupDeleteRequested, BackupDeleted, BackupDeleteFailed),
        ),
        lambda part, recorded, event: part._heard(event),
    )


def _doing(doing: Mine | None, event: Any) -> Mine | None:
    match event:
        case BackupRequested() | BackupDeleteRequested() if event.plan:
            return Mine(backup=event.backup)
        case BackupCancelRequested() if doing is not None and event.backup == doing.backup:
            return replace(doing, given_up=True)
        case BackupTaken() | BackupFailed() | BackupDeleted() | BackupDeleteFailed() if doing and event.backup == doing.backup:
            return None
        case _:
            return doing
