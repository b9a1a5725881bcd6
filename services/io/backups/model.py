"""The backups of one VM (stream `backups-VM`), and what is recovered from them. Pure.

                         seen whole
            ┌── Taking ─────────────────▶ it is in the catalogue
      take  │     │ cancel: removed by its node; it failed; its process ended, or its node is lost
            │     ▼
     idle ──┤   it is not there; what its node may have left is removed once that hears of it (Left)
            │
    delete  ├── Deleting ── seen removed ▶ it is not there, and what stood on it stands on what it stood on
            │     │ could not be done, or its node was removed: all is as it was
            │     │ its node is lost: the same, by another that reaches the pool
            │
    verify  └── Verifying ─ read again ──▶ sound, or damaged
                  │ cancel

A schedule (tending.py) wants all of these by itself, by ticks. Recovery drills are in drilling.py.

One thing at a time is done with a VM's backups (`doing`); a wish meanwhile is refused as BUSY. Beside that a recovery holds a
backup, and all that this stands on, from RecoveryRequested until RecoveryEnded: none of them is deleted meanwhile, and while one
of them is being deleted nothing is recovered from it. Both are decided here, in one stream, so that there is no race between them.

Files that are read out of one hold it likewise, for a time (filing.py).

How a recovery goes is noted beside it, and that a promise would be missed (watching.py).

Whoever reports is the node that the log names, and speaks of the order that the log still wants: all else counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from libs.common.decider import Decider
from proto.backup_files import BackupFilesCommand, BackupFilesEvent, EndBackupRead, ReadBackupFiles
from proto.backup_plans import PlansCommand, PlansEvent, SetBackupPlan, TendBackups
from proto.backups import (
    BackupsCommand,
    BackupsEvent,
    CancelBackup,
    DeleteBackup,
    EndBackup,
    ReportBackup,
    ReportBackupRemoved,
    ReportBackupVerified,
    TakeBackup,
    VerifyBackup,
)
from proto.drills import (
    AnswerDrill,
    CancelDrill,
    DrillsCommand,
    DrillsEvent,
    DrillVm,
    NoteDrill,
    SetDrillPlan,
    TendDrill,
)
from proto.recovery import AnswerRecovery, EndRecovery, NoteRecovery, RecoverVm, RecoveryCommand, RecoveryEvent
from services.io.backups import drilling, filing, recovering, removing, taking, tending, watching
from services.io.backups.evolving import evolve
from services.io.backups.states import Backups

Command = BackupsCommand | RecoveryCommand | PlansCommand | DrillsCommand | BackupFilesCommand
Event = BackupsEvent | RecoveryEvent | PlansEvent | DrillsEvent | BackupFilesEvent


def decide(command: Command, state: Backups) -> Sequence[Event]:
    match command:
        case TakeBackup():
            return taking.take(command, state)
        case CancelBackup():
            return taking.cancel(command, state)
        case ReportBackup():
            return taking.report(command, state)
        case DeleteBackup():
            return removing.delete(command, state)
        case ReportBackupRemoved():
            return removing.removed(command, state)
        case VerifyBackup():
            return removing.verify(command, state)
        case ReportBackupVerified():
            return removing.verified(command, state)
        case EndBackup():
            return removing.end(command, state)
        case RecoverVm():
            return recovering.recover(command, state)
        case EndRecovery():
            return recovering.end(command, state)
        case AnswerRecovery():
            return recovering.answered(command, state)
        case NoteRecovery():
            return watching.note(command, state)
        case ReadBackupFiles():
            return filing.read(command, state)
        case EndBackupRead():
            return filing.end(command, state)
        case SetBackupPlan():
            return tending.set_plan(command, state)
        case TendBackups():
            return tending.tend(command, state)
        case DrillVm() | CancelDrill() | SetDrillPlan() | TendDrill() | NoteDrill() | AnswerDrill():
            return drilling.decide(command, state)


BACKUPS: Decider[Command, Backups, Event] = Decider(
    kind="backups",
    commands=get_args(Command),
    events=get_args(Event),
    state=Backups,
    key=lambda command: command.vm,
    initial=Backups(),
    decide=decide,
    evolve=evolve,
    alone=True,
)
