"""How far a VM is, as the events of its life tell: while it is on its way, or stands still, its devices stay as they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proto.compute import (
    VmFound,
    VmPauseRequested,
    VmResumed,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.devices import VmPhase
from proto.migration import VmIncomingGone, VmMigrationEnded, VmMigrationRequested
from proto.space import VmRanOutOfSpace, VmSpaceRegained

PHASES: Final[Mapping[type[Any], VmPhase]] = {
    VmStartRequested: VmPhase.STARTING,
    VmStarted: VmPhase.RUNNING,
    VmFound: VmPhase.RUNNING,
    VmResumed: VmPhase.RUNNING,
    VmPauseRequested: VmPhase.PAUSED,
    VmRanOutOfSpace: VmPhase.OUT_OF_SPACE,
    VmSpaceRegained: VmPhase.RUNNING,
    VmMigrationRequested: VmPhase.MIGRATING,
    VmMigrationEnded: VmPhase.RUNNING,
    VmIncomingGone: VmPhase.RUNNING,
    VmStopRequested: VmPhase.STOPPING,
    VmStartFailed: VmPhase.STOPPED,
    VmStopped: VmPhase.STOPPED,
}
"""io follows these events"""
