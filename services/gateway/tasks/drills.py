"""Tasks about recovery drills: begun by the wish, ended by the result. What is cleaned up then is no matter of theirs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import drills as d
from proto import io
from services.gateway.why.drills import of_drills

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

DRILL, PLAN = "drill", "drill-plan"


def drills(s: _Story) -> bool:
    match s.event:
        case d.DrillPlanSet(vm=vm):
            s.at_once(PLAN, vm, of_drills(s.event))
        case d.DrillRequested(vm=vm):
            s.begin(DRILL, vm, of_drills(s.event))
        case d.DrillStarted(vm=vm) | d.DrillWent(vm=vm):
            s.step(DRILL, vm, of_drills(s.event))
        case d.DrillPassed(vm=vm):
            s.done(DRILL, vm, of_drills(s.event))
        case d.DrillFailed(vm=vm):
            s.failed(DRILL, vm, of_drills(s.event))
        case d.DrillCleanWanted() | d.DrillCleaned():
            pass
        case io.RecoveryRequested(drill=drill) if drill:
            pass
        case _:
            return False
    return True
