"""How a VM's backups lead on. Pure; a part of model.py."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.messages import NodeId
from proto.backup_files import BackupFilesEvent, BackupFilesRead, BackupReadEnded
from proto.backup_plans import BackupPlanSet, BackupPutOff, BackupUnchanged, PlansEvent
from proto.backups import (
    BackupCancelRequested,
    BackupDamaged,
    BackupDeleted,
    BackupDeleteFailed,
    BackupDeleteRequested,
    BackupFailed,
    BackupKind,
    BackupRequested,
    BackupsEvent,
    BackupTaken,
    BackupVerified,
    BackupVerifyRequested,
)
from proto.drills import (
    DrillCleaned,
    DrillCleanWanted,
    DrillFailed,
    DrillPassed,
    DrillPlanSet,
    DrillRequested,
    DrillsEvent,
    DrillStarted,
    DrillWent,
)
from proto.recovery import (
    EndKind,
    RecoveryAgentHeard,
    RecoveryAtRisk,
    RecoveryEnded,
    RecoveryEvent,
    RecoveryNoted,
    RecoveryRequested,
)
from services.io.backups import drilled, filing, scheduling, watching
from services.io.backups.chain import chain
from services.io.backups.states import (
    MUTE_MAX,
    Backup,
    Backups,
    Deleting,
    Hold,
    Left,
    Mute,
    Resting,
    Taking,
    Verifying,
    Watch,
)


def evolve(state: Backups, event: BackupsEvent | RecoveryEvent | PlansEvent | DrillsEvent | BackupFilesEvent) -> Backups:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    version = state.version + 1
    schedule = scheduling.after(state.schedule, scheduling.mine(state.doing), event)
    state = replace(state, version=version, schedule=schedule, drills=drilled.after(state.drills, event))
    match event:
        case BackupPlanSet() | BackupPutOff() | BackupUnchanged():
            return state
        case BackupFilesRead() | BackupReadEnded():
            return replace(state, reads=filing.after(state.reads, event))
        case (
            DrillPlanSet() | DrillRequested() | DrillStarted() | DrillWent() | DrillPassed() | DrillFailed()
            | DrillCleanWanted() | DrillCleaned()
        ):  # fmt: skip
            return state
        case BackupRequested():
            return replace(state, doing=Taking(wish=event, asked_version=version))
        case BackupDeleteRequested():
            return replace(state, doing=_deleting(state, event))
        case BackupVerifyRequested():
            return replace(state, doing=_verifying(state, event))
        case BackupCancelRequested():
            return _given_up(state)
        case BackupTaken():
            return _taken(state, event)
        case BackupFailed():
            return _failed(state, event)
        case BackupDeleted():
            return _deleted(state, event)
        case BackupDeleteFailed():
            return replace(state, doing=None)
        case BackupVerified(backup=id):
            return _seen(state, id, {})
        case BackupDamaged(backup=id, found=found):
            return _seen(state, id, found)
        case RecoveryRequested():
            watch = Watch(start=event.start)
            hold = Hold(recovery=event.recovery, backup=event.backup, target=event.target, watch=watch)
            return replace(state, holds=(*state.holds, hold), mute=_asked(state.mute, event))
        case RecoveryNoted() | RecoveryAtRisk():
            return replace(state, holds=tuple(_watched(hold, event) for hold in state.holds))
        case RecoveryEnded():
            holds = tuple(hold for hold in state.holds if hold.recovery != event.recovery)
            return replace(state, holds=holds, mute=state.mute if event.end is EndKind.INDEPENDENT else _without(state.mute, event))
        case RecoveryAgentHeard():
            return replace(state, mute=_without(state.mute, event))


def _asked(mute: tuple[Mute, ...], event: RecoveryRequested) -> tuple[Mute, ...]:
    """What a drill makes is asked by that."""
    others = tuple(one for one in mute if one.target != event.target)
    return others if event.drill else (*others, Mute(recovery=event.recovery, target=event.target))[-MUTE_MAX:]


def _without(mute: tuple[Mute, ...], event: RecoveryEnded | RecoveryAgentHeard) -> tuple[Mute, ...]:
    return tuple(one for one in mute if one.recovery != event.recovery)


def _watched(hold: Hold, event: RecoveryNoted | RecoveryAtRisk) -> Hold:
    return replace(hold, watch=watching.after(hold.watch, event)) if hold.recovery == event.recovery else hold


def _deleting(state: Backups, event: BackupDeleteRequested) -> Deleting:
    """Another node may go on with it; who wanted it stays."""
    plan = state.doing.plan if isinstance(state.doing, Deleting) else event.plan
    return Deleting(backup=event.backup, node=event.node, asked_version=state.version, heirs=event.heirs, plan=plan)


def _verifying(state: Backups, event: BackupVerifyRequested) -> Verifying:
    due_us = state.doing.due_us if isinstance(state.doing, Verifying) else event.due_us
    return Verifying(backup=event.backup, node=event.node, asked_version=state.version, due_us=due_us)


def _given_up(state: Backups) -> Backups:
    match state.doing:
        case Taking():
            return replace(state, doing=replace(state.doing, cancelled_version=state.version))
        case Verifying(backup=id, due_us=due_us):
            read = {one.id for one in chain(state.backups, id)}
            return replace(state, doing=None, backups=_checked(state.backups, read, due_us))
        case _:
            return replace(state, doing=None)


def _checked(backups: tuple[Backup, ...], read: set[str], due_us: int) -> tuple[Backup, ...]:
    """What a schedule had read again, or had begun to, is not read again for the same time."""
    return tuple(
        replace(one, checked_us=due_us) if one.id in read and one.checked_us < due_us else one for one in backups
    )


def _taken(state: Backups, event: BackupTaken) -> Backups:
    if not isinstance(doing := state.doing, Taking):
        return state
    wish, done = doing.wish, event.done
    last = state.backups[-1].definition if state.backups else None
    new = Backup(
        id=event.backup, kind=done.kind, pool=wish.pool, pool_id=wish.pool_id, disks=done.disks,
        definition=last if last is not None and last == wish.definition else wish.definition,  # one object of many that are equal
        taken_us=done.at_us, parent=done.parent, consistency=done.consistency, plan=wish.plan, due_us=wish.due_us,
        normal=done.normal, key=done.key,
    )  # fmt: skip
    resting = None if wish.generation else Resting(backup=new.id, disks=wish.disks, written=wish.written)
    return replace(state, backups=(*state.backups, new), doing=None, resting=resting)


def _failed(state: Backups, event: BackupFailed) -> Backups:
    doing = state.doing
    if not isinstance(doing, Taking):
        return state
    one = Left(backup=event.backup, node=NodeId(doing.node), pool=doing.wish.pool, asked_version=state.version)
    return replace(state, doing=None, left=(*state.left, one) if event.left else state.left)


def _deleted(state: Backups, event: BackupDeleted) -> Backups:
    gone = next((one for one in state.backups if one.id == event.backup), None)
    if gone is None:
        return replace(state, left=tuple(one for one in state.left if one.backup != event.backup))
    rest = tuple(
        _on(one, gone.parent, event) if one.parent == gone.id else one for one in state.backups if one is not gone
    )
    return replace(state, backups=rest, doing=None)


def _on(heir: Backup, below: str, event: BackupDeleted) -> Backup:
    """As it was written anew, on what the deleted one stood on."""
    kind = BackupKind.INCREMENTAL if below else BackupKind.FULL
    return replace(heir, parent=below, kind=kind, disks=event.heirs.get(heir.id, heir.disks))


def _seen(state: Backups, id: str, found: dict[str, str]) -> Backups:
    """All that it consists of was read: what is not found damaged is sound."""
    read = {one.id for one in chain(state.backups, id)}
    backups = tuple(
        replace(one, damaged=found.get(one.id, "")) if one.id in read and one.damaged != found.get(one.id, "") else one
        for one in state.backups
    )
    due_us = state.doing.due_us if isinstance(state.doing, Verifying) else 0
    return replace(state, backups=_checked(backups, read, due_us), doing=None)
