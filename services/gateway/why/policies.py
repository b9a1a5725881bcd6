"""By which policy a step was decided, as far as its event records that, and the choice that it made. Pure."""

from __future__ import annotations

from typing import Any

from proto import balance, guard, ladder, lease, memory, plan, reserve, vitals
from proto.compute import VmStartRequested
from proto.migration import VmMigrationRequested
from proto.placement import Candidate, Rejected

NOT_RECORDED = "not recorded"

UNNAMED = (
    lease.NodeSuspected, lease.NodeIsolated, lease.NodeLost, lease.NodeOffProven, lease.HaHeld, vitals.VerdictReached,
    guard.VmOwed, guard.RestartWanted, guard.GuardEnded, reserve.ReserveSet, ladder.LadderClimbed, ladder.LadderDescended,
    ladder.VmMoveWanted, ladder.VmPauseWanted, memory.MemoryReserved, memory.MemoryDenied, memory.CapacityExceeded,
    balance.ImbalanceBegan, balance.ImbalanceEnded, balance.NoMoveFound,
)  # fmt: skip
"""decided by a rule of the service's, whose version the event does not hold"""


def policy_of(event: Any) -> str:
    """Its name and version; NOT_RECORDED; empty: nothing was weighed."""
    match event:
        case VmStartRequested() | VmMigrationRequested():
            return event.placement.policy or NOT_RECORDED
        case plan.PlanMade() | balance.MovePlanned():
            return event.policy or NOT_RECORDED
        case _:
            return NOT_RECORDED if isinstance(event, UNNAMED) else ""


def choice_of(event: Any) -> tuple[tuple[Candidate, ...], tuple[Rejected, ...]]:
    """The nodes that would have done, best first, and those that would not."""
    if not isinstance(event, VmStartRequested | VmMigrationRequested):
        return (), ()
    return event.placement.candidates, event.placement.rejected
