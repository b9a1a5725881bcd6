"""How a recovery drill ends: its result, and the removal of what it made. Pure; a part of drilling.py."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.messages import VmId
from proto.drills import DrillCleaned, DrillCleanWanted, DrillFailed, DrillPassed, DrillsEvent, Reason, Step
from proto.recovery import RecoveryEvent
from services.io.backups.drill_states import Drilling
from services.io.backups.states import Backups

AGAIN_US, AGAIN_US_MAX = 5_000_000, 300_000_000
"""until cleaning up is asked for again; doubled each time, up to the second"""

Events = Sequence[DrillsEvent | RecoveryEvent]


def going(state: Backups) -> Drilling | None:
    return state.drills.now if state.drills is not None else None


def passed(vm: str, now: Drilling, at_us: int, exit_code: int | None = None, output: str = "") -> Events:
    end = DrillPassed(vm=VmId(vm), drill=now.id, after_ms=now.after_ms(at_us), exit_code=exit_code, output=output)
    return [end, *clean(vm, now, at_us)]


def failed(
    vm: str, now: Drilling, reason: Reason, sentence: str, at_us: int, exit_code: int | None = None, output: str = ""
) -> Events:
    end = DrillFailed(
        vm=VmId(vm), drill=now.id, reason=reason, sentence=sentence, after_ms=now.after_ms(at_us), exit_code=exit_code,
        output=output,
    )  # fmt: skip
    return [end, *clean(vm, now, at_us)]


def clean(vm: str, now: Drilling, at_us: int) -> Events:
    """Its VM first; it is over once that is gone and holds no backup. Nothing is to be done while it is not there yet."""
    if now.made:
        return [clean_wanted(vm, now, Step.STOP if now.runs else Step.DELETE, at_us)]
    return () if now.held else [DrillCleaned(vm=VmId(vm), drill=now.id, target=now.target)]


def clean_wanted(vm: str, now: Drilling, step: Step, at_us: int) -> DrillCleanWanted:
    until_us = at_us + min(AGAIN_US << min(now.tries, 16), AGAIN_US_MAX)
    return DrillCleanWanted(
        vm=VmId(vm), drill=now.id, target=VmId(now.target), step=step, tries=now.tries, until_us=until_us
    )
