"""What events say of recovery drills. Pure."""

from __future__ import annotations

from typing import Any

from libs.common.instants import utc
from proto import drills as d
from proto.drills import Step, Went

WENT = {
    Went.PREPARED: "is defined",
    Went.DISKS: "has its disks on the backup, and is to be started",
    Went.AGENT: "answered by its guest's agent",
    Went.STOPPED: "ended",
    Went.DELETED: "was deleted",
}


def of_drills(event: Any) -> str:
    match event:
        case d.DrillPlanSet(plan=plan) if plan is not None:
            return f'its recovery is to be drilled at "{plan.cron}": {_check(plan.drill)}'
        case d.DrillPlanSet():
            return "its recovery is drilled only when asked for, from now on"
        case d.DrillRequested():
            why = f"as its plan wants at {utc(event.due_us)}" if event.due_us else "as was asked for"
            of = f" of the backup {event.backup}" if event.backup else ""
            return f"the recovery drill {event.drill}{of} waits for its turn, {why}: {_check(event.wish)}"
        case d.DrillStarted():
            return f"the drill {event.drill} begins: {event.target} is made of the backup {event.backup}, without a network"
        case d.DrillWent():
            return f"{_went(event)}, {event.after_ms} ms after the drill {event.drill} began"
        case d.DrillPassed():
            code = ", and its check exited with 0" if event.exit_code is not None else ""
            return f"the drill {event.drill} passed after {event.after_ms} ms{code}; what it made is removed"
        case d.DrillFailed():
            return f"the drill {event.drill} failed ({event.reason}): {event.sentence}"
        case d.DrillCleanWanted():
            again = f", for the {event.tries + 1}. time" if event.tries else ""
            what = "stopped" if event.step is Step.STOP else "deleted"
            return f"{event.target} is to be {what}{again}: the drill {event.drill} is over"
        case d.DrillCleaned():
            return f"nothing is left of the drill {event.drill}"
        case _:
            return ""


def _check(wish: d.Drill) -> str:
    if not wish.agent:
        return f"it is to run on, within {wish.timeout_s} s"
    what = f"`{' '.join(wish.check)}` is to exit with 0" if wish.check else "its guest's agent is to answer"
    return f"{what} within {wish.timeout_s} s"


def _went(event: d.DrillWent) -> str:
    match event.went:
        case Went.PLACED:
            return f"{event.target} is started on {event.node}"
        case Went.RAN:
            return f"{event.target} runs on {event.node}"
        case Went.START_FAILED:
            return f"{event.target} did not start on {event.node} ({event.sentence})"
        case _:
            return f"{event.target} {WENT.get(event.went, event.went.value)}"
