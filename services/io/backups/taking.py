"""A backup is taken, given up, reported. Pure; a part of model.py."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from proto.backups import (
    BACKUPS_MAX,
    BackupCancelRequested,
    BackupDeleted,
    BackupDone,
    BackupFailed,
    BackupKind,
    BackupKnown,
    BackupRequested,
    BackupsEvent,
    BackupTaken,
    CancelBackup,
    Definition,
    ReportBackup,
    TakeBackup,
)
from proto.devices import VmPhase
from proto.hardware import leaving
from proto.io import Refusal
from proto.machine import Disk
from proto.pools import PoolRoom, no_backups, short
from services.io.backups import keys
from services.io.backups.chain import called, parent_for, sound
from services.io.backups.keys import listed
from services.io.backups.states import Activity, Backups, Deleting, Taking, Verifying

ON_ITS_WAY = {
    VmPhase.UNKNOWN: "not known to run",
    VmPhase.STARTING: "being started",
    VmPhase.STOPPING: "being stopped",
    VmPhase.MIGRATING: "moving to another node",
    VmPhase.OUT_OF_SPACE: "stopped for want of space in a pool",
}
"""phases in which nothing is backed up: who writes is about to change, or cannot"""
DOING = {Taking: "taken", Deleting: "deleted", Verifying: "verified"}


def take(command: TakeBackup, state: Backups) -> Sequence[BackupsEvent]:
    """Raises Refused."""
    known, vm = command.known, command.vm
    if known.definition is None:
        raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {vm}", "name one that exists")
    check_idle(vm, state.doing)
    if len(state.backups) >= BACKUPS_MAX:
        said = f"{vm} has {len(state.backups)} backups; at most {BACKUPS_MAX} are kept"
        raise Refused(Refusal.TOO_MANY, said, f"delete one, for instance {called(state.backups[0])}")
    if known.phase in ON_ITS_WAY:
        said = f"{vm} is {ON_ITS_WAY[known.phase]}: it is not backed up meanwhile"
        raise Refused(Refusal.BUSY, said, "wait until it runs, or is stopped")
    key = _key(command)
    disks = _read(vm, known, known.definition)
    room = _room(command, disks)
    keys.check(key, known.node, vm, known.keys)
    parent, why = ("", "") if command.full else parent_for(state.backups, disks, command.pool, room.id, key)
    return [
        BackupRequested(
            vm=VmId(vm), backup=f"b{command.incarnation}-{state.version + 1}", node=NodeId(known.node),
            generation=known.generation, pool=command.pool, pool_id=room.id, disks=disks, definition=known.definition,
            parent=parent, freeze=command.freeze, rate_mibps=command.rate_mibps, compress=command.compress,
            description=command.description, written=known.written, key=key, why_full=why,
        )
    ]  # fmt: skip


def _key(command: TakeBackup) -> str:
    """Raises Refused."""
    if not (command.encrypt or command.key):
        return ""
    if command.compress:
        said = "a backup is compressed or encrypted, not both: QEMU would write what is compressed in the clear"
        raise Refused(Refusal.BAD_BACKUP, said, "leave out one of the two")
    return keys.chosen(command.key, command.known.keys)


def check_idle(vm: str, doing: Activity | None) -> None:
    """Raises Refused: one thing at a time is done with a VM's backups."""
    if doing is None:
        return
    said = f"the backup {doing.backup} of {vm} is being {DOING[type(doing)]} by {doing.node}"
    if isinstance(doing, Deleting):
        raise Refused(Refusal.BUSY, said, "wait until that is done")
    if isinstance(doing, Taking) and doing.cancelled_version:
        raise Refused(Refusal.BUSY, f"{said}, and that is being given up", "wait until what there is of it is removed")
    raise Refused(Refusal.BUSY, said, f"wait until that is done, or give it up: asvctl backup cancel {vm} {doing.backup}")


def _read(vm: str, known: BackupKnown, definition: Definition) -> tuple[Disk, ...]:
    """The disks whose content there is, each as it is to be read. Raises Refused."""
    disks = tuple(disk for disk in known.disks if not disk.bus.is_cd)
    if (going := next((disk for disk in disks if leaving(disk)), None)) is not None:
        said = f"what {going.name} of {vm} stands on is being merged into it: it is not backed up meanwhile"
        raise Refused(Refusal.BUSY, said, "wait until that is done")
    if known.generation:
        if (coming := next((disk for disk in disks if not disk.made), None)) is not None:
            said = f"{coming.name} of {vm} is being attached, or a snapshot of it taken"
            raise Refused(Refusal.BUSY, said, "wait until that is done")
    else:
        disks = tuple(found for disk in disks if (found := _resting(disk)) is not None)
    if disks:
        return disks
    if any(not disk.bus.is_cd for disk in known.disks) or any(not wish.bus.is_cd for wish in definition.disks):
        raise Refused(Refusal.NOTHING_NEW, f"{vm} has never run: there is nothing on its disks", f"start {vm} first")
    raise Refused(Refusal.BAD_DEVICE, f"{vm} has no disks: nothing would be in a backup", "attach one first")


def _resting(disk: Disk) -> Disk | None:
    """Where no guest has run with its newest file, that may not be there, and there is nothing in it."""
    if disk.made:
        return disk
    if not disk.layers:
        return None
    first, *rest = disk.layers
    return replace(disk, file=first.file, format=first.format, layers=tuple(rest), made=True)


def _room(command: TakeBackup, disks: Sequence[Disk]) -> PoolRoom:
    """The pool that it is to lie in. Raises Refused."""
    known, vm, pool = command.known, command.vm, command.pool
    if not known.reached and not known.nodes:
        has = f"{known.node} has {listed(known.has)}" if known.node else "no node has it"
        raise Refused(Refusal.POOL_UNKNOWN, f"no node has a pool {pool}; {has}", "name one that there is (asvctl pool ls)")
    if not known.reached or not known.node:
        having = listed(known.nodes)
        if not known.node:
            disk = ", ".join(sorted({d.pool for d in disks}))
            said = f"no node reaches both the disks of {vm} (pool {disk}) and the pool {pool}, which {having} has"
        else:
            said = f"{known.node}, where {vm} is, has no pool {pool}; it has {listed(known.has)}; {pool} is on {having}"
        raise Refused(Refusal.NO_NODE, said, f"name a pool that it has, or move {vm} to a node that has {pool}")
    room = known.room or PoolRoom(name=pool)
    said, remedy = no_backups(room)
    if said:
        raise Refused(Refusal.BAD_DEVICE, said, remedy)
    said, remedy = short(replace(room, rules=replace(room.rules, over=0)), 1)
    if said:
        raise Refused(Refusal.POOL_FULL, said, remedy)
    return room


# --- giving up -----------------------------------------------------------------------------------------------------------


def cancel(command: CancelBackup, state: Backups) -> Sequence[BackupsEvent]:
    """Raises Refused."""
    vm, doing = command.vm, state.doing
    asked = BackupCancelRequested(vm=VmId(vm), backup=command.backup)
    match doing:
        case Taking() if doing.backup == command.backup:
            return () if doing.cancelled_version else [asked]
        case Verifying() if doing.backup == command.backup:
            return [asked]
        case Deleting() if doing.backup == command.backup:
            said = f"the backup {doing.backup} of {vm} is being deleted by {doing.node}: that is seen through"
            raise Refused(Refusal.BUSY, said, "wait until that is done")
        case _:
            what = f"{doing.backup} is being {DOING[type(doing)]}" if doing is not None else "none is"
            said = f"no backup {command.backup} of {vm} is being taken or verified; {what}"
            raise Refused(Refusal.BACKUP_UNKNOWN, said, "name the one that is under way (asvctl backup ls)")


# --- what its agent says ----------------------------------------------------------------------------------------------------


def report(fact: ReportBackup, state: Backups) -> Sequence[BackupsEvent]:
    doing, vm = state.doing, VmId(fact.vm)
    if fact.order_incarnation != fact.incarnation:
        return ()
    if fact.done is None and any(one.backup == fact.backup and one.node == fact.node for one in state.left):
        return [BackupDeleted(vm=vm, backup=fact.backup)]
    if not isinstance(doing, Taking) or doing.backup != fact.backup or fact.order_version < doing.asked_version:
        return ()
    check_node(fact.node, doing.node, fact.backup)
    if fact.done is None:
        return [BackupFailed(vm=vm, backup=fact.backup, sentence=fact.sentence or "the agent gave no reason")]
    if doing.cancelled_version:
        return ()  # it was whole before its agent heard that nobody wants it: it is still to be removed
    if wrong := _wrong(fact.done, doing, state):
        return [BackupFailed(vm=vm, backup=fact.backup, sentence=wrong, left=True)]
    return [BackupTaken(vm=vm, backup=fact.backup, done=fact.done)]


def _wrong(done: BackupDone, doing: Taking, state: Backups) -> str:
    """Why it is not what was asked for; empty: it is."""
    wanted, found = sorted(d.name for d in doing.wish.disks), sorted(d.disk for d in done.disks)
    if wanted != found:
        return f"it holds {', '.join(found) or 'no disk'}, and was to hold {', '.join(wanted)}"
    if (done.kind is BackupKind.FULL) == bool(done.parent):
        return f"it is said to be {done.kind}, on {done.parent or 'nothing'}"
    if done.parent and (done.parent != doing.wish.parent or all(one.id != done.parent for one in sound(state.backups))):
        return f"it stands on {done.parent}, and was to stand on {doing.wish.parent or 'nothing'}"
    if done.key != doing.wish.key:
        by, other = (f"by the key {word}" if word else "by none" for word in (done.key, doing.wish.key))
        return f"it is encrypted {by}, and was to be {other}"
    return ""


def check_node(said_by: str, node: NodeId, backup: str) -> None:
    """Raises Refused."""
    if said_by != node:
        raise Refused(
            Refusal.NOT_PERMITTED,
            f"{said_by} reports on the backup {backup}; the log names {node}",
            "report only what was ordered of this node",
        )
