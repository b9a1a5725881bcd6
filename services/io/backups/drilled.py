"""How a VM's recovery drills lead on. Pure; a part of evolving.py."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from proto.drills import (
    DrillCleaned,
    DrillCleanWanted,
    DrillFailed,
    DrillPassed,
    DrillPlanSet,
    DrillRequested,
    DrillStarted,
    DrillWent,
    Went,
)
from proto.recovery import RecoveryEnded
from services.io.backups.drill_states import Drilling, Drills, Phase


def after(drills: Drills | None, event: Any) -> Drills | None:
    """None: there is neither a plan nor a drill. Never refuses: what does not fit changes nothing."""
    match event:
        case DrillPlanSet():
            return _planned(drills, event)
        case DrillRequested():
            had = drills or Drills()
            now = Drilling(id=event.drill, wish=event.wish, asked_us=event.at_us, backup=event.backup)
            return replace(had, now=now, planned_us=max(had.planned_us, event.due_us))
        case DrillCleaned() if drills is not None:
            return replace(drills, now=None) if drills.plan is not None else None
        case _ if drills is not None and drills.now is not None:
            return _goes_on(drills, drills.now, event)
        case _:
            return drills


def _planned(drills: Drills | None, event: DrillPlanSet) -> Drills | None:
    """Where its times are what they were, what is due still is."""
    had = drills or Drills()
    if event.plan is None:
        return Drills(now=had.now) if had.now is not None else None
    same = had.plan is not None and had.plan.cron == event.plan.cron
    return replace(had, plan=event.plan, planned_us=had.planned_us if same else event.at_us)


def _goes_on(drills: Drills, now: Drilling, event: Any) -> Drills:
    new = now
    match event:
        case DrillStarted(drill=id) if id == now.id:
            new = replace(
                now, phase=Phase.RECOVERING, target=event.target, recovery=event.recovery, backup=event.backup,
                started_us=event.at_us, held=True,
            )  # fmt: skip
        case DrillWent(drill=id) if id == now.id:
            new = _went(now, event)
        case DrillPassed(drill=id) | DrillFailed(drill=id) if id == now.id:
            new = replace(now, phase=Phase.CLEANING)
        case DrillCleanWanted(drill=id) if id == now.id:
            new = replace(now, tries=event.tries + 1, until_us=event.until_us)
        case RecoveryEnded(recovery=recovery) if recovery == now.recovery:
            new = replace(now, held=False, sentence=event.sentence or now.sentence)
    return drills if new is now else replace(drills, now=new)


def _went(now: Drilling, event: DrillWent) -> Drilling:
    cleaning = now.phase is Phase.CLEANING
    match event.went:
        case Went.PREPARED:
            return replace(now, made=True)
        case Went.DISKS:
            return now if cleaning else replace(now, phase=Phase.BOOTING)
        case Went.PLACED:
            return replace(now, runs=True, node=event.node, generation=event.generation, failed_ms=None, sentence="")
        case Went.RAN:
            new = replace(now, runs=True, node=event.node, generation=event.generation)
            ran_ms = event.after_ms if now.ran_ms is None else now.ran_ms
            return new if cleaning else replace(new, phase=Phase.CHECKING, ran_ms=ran_ms)
        case Went.AGENT:
            return replace(now, agent_ms=event.after_ms)
        case Went.START_FAILED:
            return replace(now, runs=False, failed_ms=event.after_ms, sentence=event.sentence)
        case Went.STOPPED:
            return replace(now, runs=False)
        case Went.DELETED:
            return replace(now, made=False, runs=False)
        case Went.DENIED:
            return now
