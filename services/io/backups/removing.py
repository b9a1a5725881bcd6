"""Backups are deleted and verified, and what was begun by a node that is lost is given up. Pure; a part of model.py."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from libs.common.instants import utc
from libs.common.messages import NodeId, VmId
from proto.backups import (
    BackupCancelRequested,
    BackupDamaged,
    BackupDeleted,
    BackupDeleteFailed,
    BackupDeleteRequested,
    BackupFailed,
    BackupsEvent,
    BackupVerified,
    BackupVerifyRequested,
    DeleteBackup,
    EndBackup,
    ReportBackupRemoved,
    ReportBackupVerified,
    VerifyBackup,
)
from proto.io import Refusal
from services.io.backups import keys
from services.io.backups.chain import NAMES_MAX, chain, heirs, holder, names
from services.io.backups.states import Backup, Backups, Deleting, Taking, Verifying
from services.io.backups.taking import check_idle, check_node

CANCELLED = "it was given up, as was asked"
MIB = 1 << 20


def found(vm: str, state: Backups, id: str) -> Backup:
    """Raises Refused."""
    if (one := next((one for one in state.backups if one.id == id), None)) is not None:
        return one
    said = f"{vm} has no backup {id}; it has {names(state.backups)}"
    raise Refused(Refusal.BACKUP_UNKNOWN, said, "name one that it has (asvctl backup ls)")


def delete(command: DeleteBackup, state: Backups) -> Sequence[BackupsEvent]:
    """Raises Refused."""
    vm, id, doing = command.vm, command.backup, state.doing
    if isinstance(doing, Deleting) and doing.backup == id:
        return ()
    if isinstance(doing, Taking) and doing.backup == id:
        check_idle(vm, doing)
    one = found(vm, state, id)
    check_idle(vm, doing)
    if (hold := holder(state.backups, state.holds, id)) is not None:
        on = f", which stands on {id}" if hold.backup != id else ""
        said = f"{hold.target} is being recovered from {hold.backup}{on}: until its data is home it stands on that backup"
        raise Refused(Refusal.BACKUP_IN_USE, said, f"wait until {hold.target} is independent, or delete {hold.target}")
    _check_unread(vm, id, command.at_us, state)
    _check_restored(command)
    after = heirs(state.backups, id)
    _check_heirs(one, after)
    if not command.node:
        raise _nowhere(one)
    if after and command.keyless:
        raise keys.missing(f"{id}, on which {names(after)} stands,", one.key, command.keyless)
    _check_room(command, one, after)
    named = tuple(heir.id for heir in after)
    return [BackupDeleteRequested(vm=VmId(vm), backup=id, node=NodeId(command.node), heirs=named)]


def _check_unread(vm: str, id: str, at_us: int, state: Backups) -> None:
    """Raises Refused where files are read of the backup, or of one that stands on it."""
    going = (one for one in state.reads if one.until_us > at_us and any(each.id == id for each in chain(state.backups, one.backup)))
    one = max(going, key=lambda each: each.until_us, default=None)
    if one is None:
        return
    on = f", which stands on {id}" if one.backup != id else ""
    said = f"files are {'taken out of' if one.take else 'looked at in'} {one.backup} of {vm}{on} ({one.read})"
    raise Refused(Refusal.BACKUP_IN_USE, said, f"wait until that is over, at {utc(one.until_us)} at the latest")


def _check_restored(command: DeleteBackup) -> None:
    """After a restore a VM may stand on a backup by a recovery of which the log knows nothing any more. Raises Refused."""
    if vm := command.standing:
        said = f"the disks of {vm} stand on {command.backup}"
        raise Refused(Refusal.BACKUP_IN_USE, said, f"wait until its data has come home, or delete {vm}")
    if command.unheard:
        said = f"the database was restored, and {_named(command.unheard)} has not told yet what it runs: it may stand on a backup"
        raise Refused(Refusal.BUSY, said, "wait a moment; bring back nodes that are away, or remove them")


def _named(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - NAMES_MAX} more" if len(nodes) > NAMES_MAX else ""
    return ", ".join(nodes[:NAMES_MAX]) + more


def _check_heirs(one: Backup, after: Sequence[Backup]) -> None:
    """What is damaged is not written anew: its digest would say from then on that it is sound. Raises Refused."""
    bad = next((each for each in (one, *after) if each.damaged), None) if after else None
    if bad is None:
        return
    named = ", ".join(heir.id for heir in after)
    said = f"{bad.id} is damaged ({bad.damaged}), and what stands on {one.id} ({named}) would be written anew with it"
    first = named if bad is one else bad.id
    raise Refused(Refusal.BACKUP_DAMAGED, said, f"delete {first} first")


def _check_room(command: DeleteBackup, one: Backup, after: Sequence[Backup]) -> None:
    """Heirs are written anew beside what is there. Raises Refused."""
    room = command.room
    if not after or room is None or room.free_mib < 0:
        return
    most_mib = sum(d.bytes for heir in after for d in heir.disks) // MIB + len(after) * sum(d.bytes for d in one.disks) // MIB + 1
    if room.free_mib < most_mib:
        said = f"pool {one.pool} has {room.free_mib} MiB free; what stands on {one.id} takes up to {most_mib} MiB, written anew"
        raise Refused(Refusal.POOL_FULL, said, f"free {most_mib - room.free_mib} MiB in it, or delete the newest backups first")


def verify(command: VerifyBackup, state: Backups) -> Sequence[BackupsEvent]:
    """Raises Refused."""
    vm, id, doing = command.vm, command.backup, state.doing
    if isinstance(doing, Verifying) and doing.backup == id:
        return ()
    if isinstance(doing, Taking) and doing.backup == id:
        check_idle(vm, doing)
    one = found(vm, state, id)
    check_idle(vm, doing)
    if not command.node:
        raise _nowhere(one)
    return [BackupVerifyRequested(vm=VmId(vm), backup=id, node=NodeId(command.node))]


def _nowhere(one: Backup) -> Refused:
    return Refused(
        Refusal.NO_NODE,
        f"no node reaches the pool {one.pool} {one.pool_id}".rstrip() + f", in which the backup {one.id} lies",
        "wait until a node that has it is there again",
    )


# --- what its agent says -------------------------------------------------------------------------------------------------


def removed(fact: ReportBackupRemoved, state: Backups) -> Sequence[BackupsEvent]:
    vm, id, doing = VmId(fact.vm), fact.backup, state.doing
    if fact.order_incarnation != fact.incarnation:
        return ()
    match doing:
        case Deleting() if doing.backup == id and fact.order_version >= doing.asked_version:
            check_node(fact.node, doing.node, id)
            wrong = fact.sentence or _heirs_fault(fact, doing)
            if wrong:
                return [BackupDeleteFailed(vm=vm, backup=id, sentence=wrong)]
            return [BackupDeleted(vm=vm, backup=id, heirs=fact.heirs)]
        case Taking() if doing.backup == id and 0 < doing.cancelled_version <= fact.order_version:
            check_node(fact.node, doing.node, id)
            said = f"{CANCELLED}; {fact.sentence}" if fact.sentence else CANCELLED
            return [BackupFailed(vm=vm, backup=id, sentence=said, left=bool(fact.sentence))]
        case _:
            one = next((one for one in state.left if one.backup == id), None)
            if one is None or fact.sentence or fact.node != one.node or fact.order_version < one.asked_version:
                return ()  # it is tried again when its node is next told
            return [BackupDeleted(vm=vm, backup=id)]


def _heirs_fault(fact: ReportBackupRemoved, doing: Deleting) -> str:
    if sorted(fact.heirs) == sorted(doing.heirs):
        return ""
    return f"{fact.node} has written {', '.join(sorted(fact.heirs)) or 'nothing'} anew, not {', '.join(doing.heirs) or 'nothing'}"


def verified(fact: ReportBackupVerified, state: Backups) -> Sequence[BackupsEvent]:
    vm, id, doing = VmId(fact.vm), fact.backup, state.doing
    if fact.order_incarnation != fact.incarnation:
        return ()
    if not isinstance(doing, Verifying) or doing.backup != id or fact.order_version < doing.asked_version:
        return ()
    check_node(fact.node, doing.node, id)
    among = {one.id for one in chain(state.backups, id)}
    bad = {one: said or "its agent gave no reason" for one, said in sorted(fact.damaged.items()) if one in among}
    if bad:
        return [BackupDamaged(vm=vm, backup=id, found=bad)]
    return [BackupVerified(vm=vm, backup=id, read_mib=fact.read_mib, took_ms=fact.took_ms)]


# --- what nobody will say --------------------------------------------------------------------------------------------------


def end(command: EndBackup, state: Backups) -> Sequence[BackupsEvent]:
    """What is taken is given up; what any node can do that reaches the pool is another's. Where there is none, and its node is none
    of the cluster any more, one on which nothing stands is gone, as was wished: what there is of it went with that node."""
    vm, id, doing, node = VmId(command.vm), command.backup, state.doing, NodeId(command.node)
    other = bool(node) and (doing is None or node != doing.node)
    match doing:
        case Taking() if doing.backup == id:
            return [BackupFailed(vm=vm, backup=id, sentence=command.sentence, left=not command.removed)]
        case Deleting() if doing.backup == id and other:
            return [BackupDeleteRequested(vm=vm, backup=id, node=node, heirs=doing.heirs)]
        case Deleting() if doing.backup == id and command.removed and not heirs(state.backups, id):
            return [BackupDeleted(vm=vm, backup=id, sentence=f"{command.sentence}, and no other node reaches its files")]
        case Deleting() if doing.backup == id and command.removed:
            return [BackupDeleteFailed(vm=vm, backup=id, sentence=command.sentence)]
        case Verifying() if doing.backup == id and other:
            return [BackupVerifyRequested(vm=vm, backup=id, node=node)]
        case Verifying() if doing.backup == id and command.removed:
            return [BackupCancelRequested(vm=vm, backup=id)]
        case _:
            gone = command.removed and any(one.backup == id for one in state.left)
            return [BackupDeleted(vm=vm, backup=id)] if gone else ()
