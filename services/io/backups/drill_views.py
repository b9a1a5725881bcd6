"""A part of io's view of itself: which VMs were made by recovery drills, and what becomes of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from libs.common.host import hearing
from proto.compute import (
    VmDeleted,
    VmFound,
    VmRecoveryPrepared,
    VmRestartDenied,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
)
from proto.drills import DrillCleaned, DrillStarted, NoteDrill, Went
from proto.io import DisksRecovered
from proto.migration import VmMigrated


@dataclass(slots=True)
class DrillViews:
    """targets: VM that a drill has made, or makes -> whose backup it is of, until nothing is left of it."""

    targets: dict[str, str] = field(default_factory=dict)

    def _started(self, event: DrillStarted) -> None:
        self.targets[event.target] = event.vm

    def _cleaned(self, event: DrillCleaned) -> None:
        self.targets.pop(event.target, None)

    HEARS: ClassVar[hearing.Heard] = {
        DrillStarted: lambda part, recorded, event: part._started(event),
        DrillCleaned: lambda part, recorded, event: part._cleaned(event),
    }


WENT: dict[type[Any], Went] = {
    VmRecoveryPrepared: Went.PREPARED,
    DisksRecovered: Went.DISKS,
    VmStartRequested: Went.PLACED,
    VmRestartDenied: Went.DENIED,
    VmStarted: Went.RAN,
    VmFound: Went.RAN,
    VmMigrated: Went.RAN,
    VmStartFailed: Went.START_FAILED,
    VmStopped: Went.STOPPED,
    VmDeleted: Went.DELETED,
}


def react(event: Any, at_us: int, views: DrillViews) -> Sequence[NoteDrill]:
    """at_us: when the event was recorded."""
    if not views.targets or (went := WENT.get(type(event))) is None or (vm := views.targets.get(event.vm)) is None:
        return ()
    if isinstance(event, VmStartFailed) and event.again:
        return ()
    said = getattr(event, "sentence", "")
    if isinstance(event, VmStopped):
        said = said or f"it ended ({event.cause})"
    return [
        NoteDrill(
            vm=vm, target=event.vm, went=went, at_us=at_us, node=getattr(event, "node", ""),
            generation=getattr(event, "generation", 0), sentence=said,
        )
    ]  # fmt: skip
