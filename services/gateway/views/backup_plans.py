"""The schedule of each VM's backups, as the events tell of it. It outlives its VM, as the backups do. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.messages import Recorded, decode_meta
from proto import io


class PutOff(msgspec.Struct):
    """chore: `take` or `delete`. due_us: the schedule's time that it is for; until_us: when it is tried again."""

    chore: str
    due_us: int
    failures: int
    until_us: int
    sentence: str


class VmPlan(msgspec.Struct):
    """set_us: as it was set, by io's clock; last_us: the newest of its times for which a backup was asked for, or needed not be;
    0: none yet.
    put_off: what failed, while it is to be tried again."""

    vm: str
    project: str
    plan: io.BackupPlan
    set_us: int
    last_us: int = 0
    put_off: PutOff | None = None


TOLD_MAX = 50
HEARD = frozenset({io.BackupPlanSet, io.BackupPutOff, io.BackupRequested, io.BackupTaken, io.BackupDeleted, io.BackupUnchanged})


@dataclass(slots=True)
class PlansView:
    """By VM. told: where the log speaks of its schedule, the last TOLD_MAX positions."""

    all: dict[str, VmPlan] = field(default_factory=dict)
    told: dict[str, list[int]] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        if type(event) not in HEARD:
            return
        if isinstance(event, io.BackupPlanSet | io.BackupPutOff | io.BackupUnchanged):
            self.told[event.vm] = [*self.told.get(event.vm, ()), recorded.position][-TOLD_MAX:]
        match event:
            case io.BackupPlanSet(vm=vm, plan=plan) if plan is not None:
                known = self.all.get(vm)
                last_us = known.last_us if known is not None else 0
                self.all[vm] = VmPlan(vm, decode_meta(recorded.meta).project, plan, event.at_us, last_us)
            case io.BackupPlanSet():
                self.all.pop(event.vm, None)
            case io.BackupPutOff() if (known := self.all.get(event.vm)) is not None:
                known.put_off = PutOff(event.chore.value, event.due_us, event.failures, event.until_us, event.sentence)
            case io.BackupUnchanged() if (known := self.all.get(event.vm)) is not None:
                known.last_us = event.due_us
                if known.put_off is not None and known.put_off.chore == "take":
                    known.put_off = None
            case io.BackupRequested() if event.plan and (known := self.all.get(event.vm)) is not None:
                known.last_us = event.due_us
            case io.BackupTaken() | io.BackupDeleted() if (known := self.all.get(event.vm)) is not None:
                chore = "take" if isinstance(event, io.BackupTaken) else "delete"
                if known.put_off is not None and known.put_off.chore == chore:
                    known.put_off = None
            case _:
                return
