"""A recovery drill is asked for, begins, goes on and is cleaned up. Pure; a part of model.py; docs/decisions/0047-drills.md.

                turn            defined, on its backup       it runs          its guest has answered
    Waiting ─────────▶ Recovering ─────────────────▶ Booting ───────▶ Checking ───────────────────▶ passed ──┐
       │ no backup          │ refused, late             │ no room, late    │ died, late, check is not 0       │
       ▼                    ▼                           ▼                  ▼                                  ▼
     failed               failed ────────────────────────────────────────────────────────────────▶ Cleaning ──▶ idle
                                                                    stop, delete; again until it is seen gone

A drill has its result when its cleaning begins: whatever comes then, the VM that it made is asked to be stopped and deleted, until
the log says that it is deleted and its backup is held no more. Its name was never given before, so that none but it is removed.
What becomes of its VM is noted by reactions (NoteDrill), what its guest says by whoever asks it (AnswerDrill); its time, and the
repeats of its cleaning, come with ticks.
"""

from __future__ import annotations

from zlib import crc32

from libs.common import cron
from libs.common.decider import Refused
from libs.common.messages import VmId
from proto.drills import (
    AnswerDrill,
    CancelDrill,
    Drill,
    DrillPlanSet,
    DrillRequested,
    DrillsCommand,
    DrillStarted,
    DrillVm,
    NoteDrill,
    Reason,
    SetDrillPlan,
    TendDrill,
)
from proto.io import Refusal
from proto.recovery import RecoverKnown, RecoverVm, RecoveryRequested
from services.io.backups import plans, recovering
from services.io.backups.chain import newest, sound
from services.io.backups.drill_ends import AGAIN_US_MAX, Events, clean, failed, going, passed
from services.io.backups.drill_notes import answer, note
from services.io.backups.drill_states import GOES_ON, Drilling, Drills, Phase
from services.io.backups.states import Backups

WAIT_US_MAX = 3_600_000_000
"""how long one waits for its turn"""
SETTLE_MS = 15_000
"""a guest without an agent that ran for so long has come up, as far as can be known"""
FAILED_MS = 2_000
"""a start that failed goes on with the next node at once, or not at all"""
HOME_MIBPS = 1
"""of each disk: nothing of it is kept, so that nothing need come home; the least that can be said"""
BACK_US = 60_000_000
"""a clock that is so far behind the drill's beginning would let it go on for longer than it may"""
NAME_MAX = 63


def decide(command: DrillsCommand, state: Backups) -> Events:
    match command:
        case DrillVm():
            return drill(command, state)
        case CancelDrill():
            return cancel(command, state)
        case SetDrillPlan():
            return set_plan(command, state)
        case TendDrill():
            return tend(command, state)
        case NoteDrill():
            return note(command, state)
        case AnswerDrill():
            return answer(command, state)


# --- what is asked for ---------------------------------------------------------------------------------------------------


def drill(command: DrillVm, state: Backups) -> Events:
    """Raises Refused; that of a recovery, too: what cannot be recovered now cannot be drilled."""
    if (now := going(state)) is not None:
        said = f"a drill of {command.vm} goes on already: {now.id} is {now.phase}"
        raise Refused(Refusal.BUSY, said, f"wait for it, or give it up: asvctl recovery drill {command.vm} --cancel")
    _check(command.drill)
    recovering.recover(
        _wish(command.vm, named(command.vm, "0-0"), "d0-0", command.backup, command.known.recover, state), state
    )
    return [
        _requested(command.vm, command.drill, command.known.at_us, command.incarnation, state, backup=command.backup)
    ]


def _check(wish: Drill) -> None:
    """Raises Refused."""
    if wish.check and not wish.agent:
        said = "a check is run by the guest's agent, and none is to be asked"
        raise Refused(Refusal.BAD_DRILL, said, "give no check, or leave the agent")


def _requested(
    vm: str, wish: Drill, at_us: int, incarnation: int, state: Backups, *, backup: str = "", due_us: int = 0
) -> DrillRequested:
    id = f"d{incarnation}-{state.version + 1}"
    return DrillRequested(vm=VmId(vm), drill=id, wish=wish, at_us=at_us, backup=backup, due_us=due_us)


def cancel(command: CancelDrill, state: Backups) -> Events:
    """Raises Refused."""
    if (now := going(state)) is None:
        raise Refused(Refusal.DRILL_UNKNOWN, f"no drill of {command.vm} goes on", "see asvctl recovery drills")
    if now.phase is Phase.CLEANING:
        return ()
    return failed(command.vm, now, Reason.CANCELLED, "somebody gave it up", command.known.at_us)


def set_plan(command: SetDrillPlan, state: Backups) -> Events:
    """Raises Refused."""
    plan, had = command.plan, state.drills
    if plan == (had.plan if had is not None else None):
        return ()
    if plan is not None:
        if not command.known.defined:
            raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {command.vm}", "name one that exists")
        if wrong := cron.fault(plan.cron):
            said = f"the time of its drills, {plan.cron!r}, is none: {wrong}"
            raise Refused(Refusal.BAD_TIME, said, f"give one as in {cron.EXAMPLE}")
        _check(plan.drill)
    return [DrillPlanSet(vm=VmId(command.vm), at_us=command.known.at_us, plan=plan)]


# --- by ticks ----------------------------------------------------------------------------------------------------------------


def due(drills: Drills, now_us: int) -> bool:
    """Whether a tick, without its turn, would decide something."""
    now = drills.now
    if now is None:
        return bool(_planned_us(drills, now_us))
    match now.phase:
        case Phase.WAITING:
            return now_us >= now.asked_us + WAIT_US_MAX
        case Phase.CLEANING:
            back = now.until_us - now_us > AGAIN_US_MAX  # the clock went back
            return now_us >= now.until_us or back if now.made else not now.held
        case _:
            return _late(now, now_us) is not None or _settled(now, now_us)


def _planned_us(drills: Drills, now_us: int) -> int:
    return plans.due(drills.plan.cron, drills.planned_us, now_us) if drills.plan is not None else 0


def tend(tick: TendDrill, state: Backups) -> Events:
    if (drills := state.drills) is None:
        return ()
    now, now_us = drills.now, tick.now_us
    if now is None:
        due_us = _planned_us(drills, now_us) if tick.known.defined else 0
        if drills.plan is None or not due_us:
            return ()
        return [_requested(tick.vm, drills.plan.drill, now_us, tick.incarnation, state, due_us=due_us)]
    if now.phase is Phase.WAITING:
        return _turn(tick, now, state)
    if now.phase is Phase.CLEANING:
        return clean(tick.vm, now, now_us) if due(drills, now_us) else ()
    if (late := _late(now, now_us)) is not None:
        return failed(tick.vm, now, *late, now_us)
    if _settled(now, now_us):
        return passed(tick.vm, now, now_us)
    return ()


def _turn(tick: TendDrill, now: Drilling, state: Backups) -> Events:
    vm = tick.vm
    if tick.now_us >= now.asked_us + WAIT_US_MAX:
        said = f"its turn did not come within {WAIT_US_MAX // 60_000_000} minutes: other drills went on"
        return failed(vm, now, Reason.NO_ROOM, said, tick.now_us)
    if not tick.turn:
        return ()
    target = named(vm, f"{tick.incarnation}-{state.version + 1}")
    wish = _wish(vm, target, now.id, now.backup, tick.known.recover, state, tick.incarnation)
    try:
        asked = recovering.recover(wish, state)
    except Refused as no:
        return () if no.reason is Refusal.BUSY else failed(vm, now, Reason.REFUSED, no.sentence, tick.now_us)
    one = next(event for event in asked if isinstance(event, RecoveryRequested))
    started = DrillStarted(
        vm=VmId(vm), drill=now.id, target=one.target, recovery=one.recovery, backup=one.backup, taken_us=one.taken_us,
        at_us=tick.now_us,
    )  # fmt: skip
    return [started, *asked]


def _wish(
    vm: str, target: str, id: str, backup: str, known: RecoverKnown, state: Backups, incarnation: int = 1
) -> RecoverVm:
    """The newest that is sound, where none is named: that another is damaged is no reason not to try that."""
    good = newest(sound(state.backups))
    return RecoverVm(
        vm=vm, target=target, backup=backup or (good.id if good is not None else ""), start=False, isolated=True,
        rate_mibps=HOME_MIBPS, drill=id, known=known, incarnation=incarnation,
    )  # fmt: skip


def named(vm: str, word: str) -> str:
    """`drill-web-1-1-7`: of a long name so much as there is room for, and its digest."""
    whole = f"drill-{vm}-{word}"
    if len(whole) <= NAME_MAX:
        return whole
    end = f"-{crc32(vm.encode()):08x}-{word}"
    return f"drill-{vm[: NAME_MAX - len('drill-') - len(end)]}{end}"


def _late(now: Drilling, now_us: int) -> tuple[Reason, str] | None:
    """Why it has failed by now; None: it has not."""
    if now.phase not in GOES_ON:
        return None
    if now.phase is Phase.RECOVERING and not now.held:
        return Reason.REFUSED, now.sentence or "its recovery ended before its VM was there"
    ms = now.after_ms(now_us)
    if now.phase is Phase.BOOTING and not now.runs and now.failed_ms is not None and ms >= now.failed_ms + FAILED_MS:
        return Reason.NOT_STARTED, now.sentence
    back = now.started_us - now_us > BACK_US
    if now_us < now.deadline_us and not back:
        return None
    within = f"within {now.wish.timeout_s} s" if not back else "before the clock went back"
    if now.phase is Phase.RECOVERING:
        return Reason.NOT_STARTED, f"its disks did not stand on the backup {within}"
    if now.phase is Phase.BOOTING:
        return Reason.NOT_STARTED, f"it did not run {within}" + (f": {now.sentence}" if now.sentence else "")
    if now.agent_ms is None:
        return Reason.NO_AGENT, f"it booted, and its guest's agent did not answer {within}"
    return Reason.CHECK, f"its check did not end {within}"


def _settled(now: Drilling, now_us: int) -> bool:
    if now.phase is not Phase.CHECKING or now.wish.agent or now.ran_ms is None:
        return False
    return now.after_ms(now_us) >= now.ran_ms + SETTLE_MS
