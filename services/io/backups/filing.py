"""Files are read out of a backup: who, what, and until when that holds it. Pure; a part of model.py.

A read holds its backup, and all that this stands on, until its end is told or its time is over; so nothing has to be told by
whoever died.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from proto.backup_files import (
    LIST_HOLD_US,
    READS_MAX,
    TAKE_HOLD_US,
    BackupFilesEvent,
    BackupFilesRead,
    BackupReadEnded,
    EndBackupRead,
    ReadBackupFiles,
)
from proto.io import Refusal
from services.io.backups import keys
from services.io.backups.chain import called, chain, damage, newest, sound
from services.io.backups.removing import found
from services.io.backups.states import Backups, Deleting, Reading


def read(command: ReadBackupFiles, state: Backups) -> Sequence[BackupFilesEvent]:
    """Raises Refused."""
    vm, id = command.vm, command.backup
    one = found(vm, state, id)
    _check_whole(vm, id, state)
    going = [each for each in state.reads if each.take and each.until_us > command.at_us]
    if command.take and len(going) >= READS_MAX:
        said = f"files are taken out of {len(going)} backups of {vm} already; at most {READS_MAX} at once"
        raise Refused(Refusal.BUSY, said, "wait until one of them is over")
    if not command.node:
        said = f"no node reaches the pool {one.pool} {one.pool_id}".rstrip() + f", in which the backup {id} lies"
        raise Refused(Refusal.NO_NODE, said, "wait until a node that has it is there again")
    if command.keyless:
        raise keys.missing(id, one.key, command.keyless)
    hold_us = TAKE_HOLD_US if command.take else LIST_HOLD_US
    return [
        BackupFilesRead(
            vm=VmId(vm), backup=id, read=f"f{command.incarnation}-{state.version + 1}", node=NodeId(command.node), pool=one.pool,
            path=command.path, take=command.take, at_us=command.at_us, until_us=command.at_us + hold_us,
        )
    ]  # fmt: skip


def _check_whole(vm: str, id: str, state: Backups) -> None:
    """Raises Refused: BACKUP_DAMAGED, BUSY."""
    below = chain(state.backups, id)
    if (bad := damage(state.backups, id)) is not None:
        good = newest(sound(state.backups))
        remedy = f"read {called(good)}, the newest that is sound" if good is not None else "none of its backups is sound"
        on = f" stands on {bad.id}, which" if bad.id != id else ""
        raise Refused(Refusal.BACKUP_DAMAGED, f"the backup {id} of {vm}{on} is damaged: {bad.damaged}", remedy)
    doing = state.doing
    if isinstance(doing, Deleting) and any(each.id == doing.backup for each in below):
        on = f", on which {id} stands," if doing.backup != id else ""
        raise Refused(Refusal.BUSY, f"the backup {doing.backup} of {vm}{on} is being deleted", "wait until that is done")


def end(command: EndBackupRead, state: Backups) -> Sequence[BackupFilesEvent]:
    one = next((each for each in state.reads if each.read == command.read), None)
    if one is None:
        return ()
    return [
        BackupReadEnded(
            vm=VmId(command.vm), backup=one.backup, read=one.read, bytes=command.bytes, whole=command.whole,
            sentence=command.sentence,
        )
    ]  # fmt: skip


def after(reads: Sequence[Reading], event: BackupFilesEvent) -> tuple[Reading, ...]:
    match event:
        case BackupFilesRead():
            new = Reading(read=event.read, backup=event.backup, take=event.take, until_us=event.until_us)
            left = (one for one in reads if one.until_us > event.at_us and not _goes_on(one, new))
            return (*left, new)
        case BackupReadEnded():
            return tuple(one for one in reads if one.read != event.read)


def _goes_on(one: Reading, new: Reading) -> bool:
    """Folder after folder of one backup is listed: that is held once."""
    return not one.take and not new.take and one.backup == new.backup and one.until_us <= new.until_us
