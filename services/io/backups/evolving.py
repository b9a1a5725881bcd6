"""How a VM's backups lead on. Pure; a part of model.py."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.messages import NodeId
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
from proto.recovery import RecoveryEnded, RecoveryEvent, RecoveryRequested
from services.io.backups.chain import chain
from services.io.backups.states import Backup, Backups, Deleting, Hold, Left, Taking, Verifying


def evolve(state: Backups, event: BackupsEvent | RecoveryEvent) -> Backups:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    version = state.version + 1
    state = replace(state, version=version)
    match event:
        case BackupRequested():
            return replace(state, doing=Taking(wish=event, asked_version=version))
        case BackupDeleteRequested(backup=id, node=node, heirs=heirs):
            return replace(state, doing=Deleting(backup=id, node=node, asked_version=version, heirs=heirs))
        case BackupVerifyRequested(backup=id, node=node):
            return replace(state, doing=Verifying(backup=id, node=node, asked_version=version))
        case BackupCancelRequested():
            doing = state.doing
            return replace(state, doing=replace(doing, cancelled_version=version) if isinstance(doing, Taking) else None)
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
            hold = Hold(recovery=event.recovery, backup=event.backup, target=event.target)
            return replace(state, holds=(*state.holds, hold))
        case RecoveryEnded():
            return replace(state, holds=tuple(hold for hold in state.holds if hold.recovery != event.recovery))


def _taken(state: Backups, event: BackupTaken) -> Backups:
    if not isinstance(doing := state.doing, Taking):
        return state
    wish, done = doing.wish, event.done
    last = state.backups[-1].definition if state.backups else None
    new = Backup(
        id=event.backup, kind=done.kind, pool=wish.pool, pool_id=wish.pool_id, disks=done.disks,
        definition=last if last is not None and last == wish.definition else wish.definition,  # one object of many that are equal
        taken_us=done.at_us, parent=done.parent, consistency=done.consistency,
    )  # fmt: skip
    return replace(state, backups=(*state.backups, new), doing=None)


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
    return replace(state, backups=backups, doing=None)
