"""io: recovery drills of a VM (streams `backups-VM`). A part of io.py; docs/decisions/0047-drills.md.

A drill makes a VM of a backup under another name and without a network, starts it, waits for its guest's agent, runs a check in
it, and removes it.

    backups-VM                             vm-TARGET                        devices-TARGET
    DrillVm, or a time of its plan
    DrillRequested … its turn comes
    DrillStarted, RecoveryRequested ─────▶ VmRecoveryPrepared ────────────▶ DisksRecovered
    DrillWent{disks} ◀───────────────────────────────────────────────────── ┘
       └─────────────────────────────────▶ RestartVm{drill}: VmStartRequested … VmStarted, or VmRestartDenied
    DrillWent{ran} ◀─────────────────────── ┘
    DrillWent{agent}, DrillPassed or DrillFailed: what the guest's agent said, or that the time is over
    DrillCleanWanted ────────────────────▶ StopVm, DeleteVm: VmDeleted ───▶ DevicesRemoved: RecoveryEnded
    DrillCleaned
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, Tick, Value, VmId
from proto.backup_plans import Cron
from proto.recovery import RecoverKnown

OUTPUT_MAX = 4096
"""characters of a check's output that are kept: the last ones"""
DRILL_S = 600
"""a drill's time, where nothing else is said"""
DrillS = Annotated[int, msgspec.Meta(ge=10, le=86_400)]
Word = Annotated[str, msgspec.Meta(max_length=1024)]
Check = Annotated[tuple[Word, ...], msgspec.Meta(max_length=32)]
"""a program in the guest, and its arguments. It is in the log: no place for what is secret"""
DrillName = Annotated[str, msgspec.Meta(max_length=63)]


class Drill(Value):
    """What a drill is. check: run inside, has to exit with 0; empty: that the guest's agent answers is enough. timeout_s: from its
    turn until it has passed. agent: False: the guest has none; that it runs, and goes on running, is enough."""

    check: Check = ()
    timeout_s: DrillS = DRILL_S
    agent: bool = True


class DrillPlan(Value):
    """Of the newest sound backup, at each time of cron (UTC)."""

    cron: Cron
    drill: Drill = Drill()


class Reason(StrEnum):
    """Why a drill failed. refused: there is no backup that it could be made of, or its disks could not be put on it; no-room: no
    node takes it beside what runs; not-started: it did not run; died: it ended by itself; no-agent: the guest's agent did not
    answer; check: the check did not exit with 0; cancelled; removed: somebody deleted it."""

    REFUSED = "refused"
    NO_ROOM = "no-room"
    NOT_STARTED = "not-started"
    DIED = "died"
    NO_AGENT = "no-agent"
    CHECK = "check"
    CANCELLED = "cancelled"
    REMOVED = "removed"


class Went(StrEnum):
    """What became of a drill's VM. prepared: it is defined; disks: they stand on the backup; placed: it is being started; denied:
    no node takes it; ran: its first instruction; agent: it answered; start-failed, stopped, deleted."""

    PREPARED = "prepared"
    DISKS = "disks"
    PLACED = "placed"
    DENIED = "denied"
    RAN = "ran"
    AGENT = "agent"
    START_FAILED = "start-failed"
    STOPPED = "stopped"
    DELETED = "deleted"


class Step(StrEnum):
    STOP = "stop"
    DELETE = "delete"


class DrillKnown(Value):
    """By io's own view; ignored from outside. defined: there is such a VM; at_us: the time; recover: as for RecoverVm."""

    defined: bool = False
    at_us: int = 0
    recover: RecoverKnown = RecoverKnown()


class DrillVm(Command):
    """backup: which; empty: the newest that is sound, as its turn comes."""

    vm: Name
    backup: DrillName = ""
    drill: Drill = Drill()
    known: DrillKnown = DrillKnown()
    incarnation: int = 1


class CancelDrill(Command):
    """It has failed then, and is cleaned up."""

    vm: Name
    known: DrillKnown = DrillKnown()


class SetDrillPlan(Command):
    """plan: None: from now on it is drilled only when asked for."""

    vm: Name
    plan: DrillPlan | None = None
    known: DrillKnown = DrillKnown()


class TendDrill(Tick):
    """Its time is over, its plan wants one, or what is to be cleaned up was not. turn: it may begin, as few enough go on."""

    vm: Name
    turn: bool = False
    known: DrillKnown = DrillKnown()
    incarnation: int = 1


class NoteDrill(Command):
    """From a reaction: what became of the VM `target`, at at_us. node, generation: of what runs."""

    vm: Name
    target: Name
    went: Went
    at_us: int
    node: str = ""
    generation: int = 0
    sentence: str = ""


class AnswerDrill(Command):
    """From who asks the guest: its agent answered (exit_code None: it was not asked for more), or how its check went. error: why
    it did not run. output: the last of what it wrote, both streams."""

    vm: Name
    drill: DrillName
    generation: int
    exit_code: int | None = None
    output: Annotated[str, msgspec.Meta(max_length=OUTPUT_MAX)] = ""
    error: str = ""
    known: DrillKnown = DrillKnown()


# --- events ---------------------------------------------------------------------------------------------------------------


class DrillPlanSet(Event):
    """at_us: times after that count."""

    vm: VmId
    at_us: int
    plan: DrillPlan | None = None


class DrillRequested(Event):
    """drill: its id, `dINCARNATION-VERSION`. due_us: the plan's time that it is for; 0: somebody asked."""

    vm: VmId
    drill: str
    wish: Drill
    at_us: int
    backup: str = ""
    due_us: int = 0


class DrillStarted(Event):
    """Its turn has come: all its times count from at_us. A RecoveryRequested goes after it. target: the VM that it makes;
    taken_us: the instant that the backup is of."""

    vm: VmId
    drill: str
    target: VmId
    recovery: str
    backup: str
    taken_us: int
    at_us: int


class DrillWent(Event):
    """after_ms: since its turn came."""

    vm: VmId
    drill: str
    target: VmId
    went: Went
    after_ms: int
    node: str = ""
    generation: int = 0
    sentence: str = ""


class DrillPassed(Event):
    """after_ms: since its turn came. exit_code: None: nothing was to be checked."""

    vm: VmId
    drill: str
    after_ms: int
    exit_code: int | None = None
    output: str = ""


class DrillFailed(Event):
    vm: VmId
    drill: str
    reason: Reason
    sentence: str
    after_ms: int = 0
    exit_code: int | None = None
    output: str = ""


class DrillCleanWanted(Event):
    """Compute is asked to stop, or to delete, the VM that the drill made. tries: so many were before; until_us: then it is asked
    again."""

    vm: VmId
    drill: str
    target: VmId
    step: Step
    tries: int
    until_us: int


class DrillCleaned(Event):
    """Nothing is left of it. target: the VM that it had made; empty: it had made none."""

    vm: VmId
    drill: str
    target: str = ""


DrillsCommand = DrillVm | CancelDrill | SetDrillPlan | TendDrill | NoteDrill | AnswerDrill
DrillsEvent = (
    DrillPlanSet
    | DrillRequested
    | DrillStarted
    | DrillWent
    | DrillPassed
    | DrillFailed
    | DrillCleanWanted
    | DrillCleaned
)
