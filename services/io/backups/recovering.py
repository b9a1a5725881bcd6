"""A backup is chosen to be recovered from, and held until that has ended. Pure; a part of model.py."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.instants import utc
from libs.common.messages import NodeId, VmId
from proto.backups import Definition, SavedDisk
from proto.devices import VmPhase
from proto.io import Refusal
from proto.machine import Allotment, DiskFormat, Layer, Origin, Priority
from proto.recovery import (
    AnswerRecovery,
    EndKind,
    EndRecovery,
    RecoveredDisk,
    RecoverVm,
    RecoveryAgentHeard,
    RecoveryEnded,
    RecoveryEvent,
    RecoveryRequested,
)
from services.io.backups import keys
from services.io.backups.chain import NAMES_MAX, called, chain, damage, newest, sound
from services.io.backups.removing import found
from services.io.backups.states import Backup, Backups, Deleting
from services.io.backups.watching import graded


def recover(command: RecoverVm, state: Backups) -> Sequence[RecoveryEvent]:
    """Raises Refused."""
    one = _chosen(command, state)
    _check_sound(command.vm, one, state)
    _check_target(command, state)
    _check_node(command, one)
    image = one.definition.boot_image
    if image and image not in command.known.images:
        said = f"{command.vm} is started from files of the image {image}, which is not there (any more)"
        raise Refused(Refusal.IMAGE_UNKNOWN, said, f"import {image} again (asvctl image import)")
    recovery = f"r{command.incarnation}-{state.version + 1}"
    files = chain(state.backups, one.id)
    return [
        RecoveryRequested(
            vm=VmId(command.vm), target=VmId(command.target), recovery=recovery, backup=one.id, taken_us=one.taken_us,
            disks=tuple(_recovered(command.vm, disk, files) for disk in one.disks), definition=_defined(command, one),
            node=NodeId(command.node), pool=command.pool, start=command.start, isolated=command.isolated, lose=command.lose,
            rate_mibps=command.rate_mibps, drill=command.drill, normal=one.normal,
        )
    ]  # fmt: skip


def _defined(command: RecoverVm, one: Backup) -> Definition:
    """A drill is never in the way of what is to run."""
    was = one.definition
    return replace(was, priority=Priority.BEST_EFFORT, allotment=Allotment()) if command.drill else was


def _chosen(command: RecoverVm, state: Backups) -> Backup:
    """Raises Refused: BACKUP_UNKNOWN."""
    if command.backup:
        return found(command.vm, state, command.backup)
    if (one := newest(state.backups, command.at_us)) is not None:
        return one
    if not state.backups:
        said = f"{command.vm} has no backup"
        raise Refused(Refusal.BACKUP_UNKNOWN, said, f"take one while it is there: asvctl backup create {command.vm}")
    first = min(state.backups, key=lambda each: each.taken_us)
    said = f"{command.vm} has no backup of {utc(command.at_us)} or before: the first is {called(first)}"
    raise Refused(Refusal.BACKUP_UNKNOWN, said, f"name a later time, or --backup {first.id}")


def _check_sound(vm: str, one: Backup, state: Backups) -> None:
    """Raises Refused: BACKUP_DAMAGED, BUSY."""
    if (bad := damage(state.backups, one.id)) is not None:
        on = f" stands on {bad.id}, which" if bad is not one else ""
        good = newest(sound(state.backups))
        remedy = "none of its backups is sound"
        if good is not None:
            remedy = f"recover from {called(good)}, the newest that is sound: --backup {good.id}"
        raise Refused(Refusal.BACKUP_DAMAGED, f"the backup {one.id} of {vm}{on} is damaged: {bad.damaged}", remedy)
    doing = state.doing
    if isinstance(doing, Deleting) and any(each.id == doing.backup for each in chain(state.backups, one.id)):
        on = f", on which {one.id} stands," if doing.backup != one.id else ""
        raise Refused(Refusal.BUSY, f"the backup {doing.backup} of {vm}{on} is being deleted", "wait until that is done")


def _check_target(command: RecoverVm, state: Backups) -> None:
    """Raises Refused: VM_KNOWN, NOT_STOPPED, NOT_CONFIRMED, BUSY."""
    vm, target, phase = command.vm, command.target, command.known.phase
    if (held := next((hold for hold in state.holds if hold.target == target), None)) is not None:
        said = f"{target} is being recovered from {held.backup} already ({held.recovery})"
        raise Refused(Refusal.BUSY, said, f"wait until it is independent, or delete {target}")
    if node := command.known.removing:
        said = f"the disks of an earlier {target} are still being removed by {node}"
        raise Refused(Refusal.BUSY, said, "wait until they are, or take another name (--as NAME)")
    if phase is VmPhase.UNKNOWN:
        return
    if target != vm:
        said = f"a VM named {target} exists"
        raise Refused(Refusal.VM_KNOWN, said, f"take another name, or delete {target} first")
    if phase is not VmPhase.STOPPED:
        said = f"{vm} is {phase}: its disks cannot be put in place"
        raise Refused(Refusal.NOT_STOPPED, said, f"stop it first: asvctl vm stop {vm}")
    if command.lose != target:
        said = f"{vm} is there: what it wrote since that backup would be thrown away"
        raise Refused(Refusal.NOT_CONFIRMED, said, f"name what is lost: --lose {vm}, or recover it beside: --as NAME")


def _check_node(command: RecoverVm, one: Backup) -> None:
    """Raises Refused: NO_NODE, NO_KEY."""
    nodes = command.known.nodes.get(one.id, ())
    pool = f"{one.pool} {one.pool_id}".rstrip()
    if not nodes:
        said = f"no node reaches the pool {pool}, in which the backup {one.id} lies"
        raise Refused(Refusal.NO_NODE, said, "wait until a node that has it is there again")
    if command.node and command.node not in nodes:
        said = f"{command.node} does not reach the pool {pool}, in which the backup {one.id} lies"
        more = f" and {len(nodes) - NAMES_MAX} more" if len(nodes) > NAMES_MAX else ""
        raise Refused(Refusal.NO_NODE, said, f"name one that does: {', '.join(nodes[:NAMES_MAX])}{more}; or none")
    keyed = command.known.keyed.get(one.id, ())
    if one.key and not set(nodes).intersection(keyed):
        raise keys.missing(one.id, one.key, nodes)
    if one.key and command.node and command.node not in keyed:
        said = f"the backup {one.id} is encrypted by the key {one.key}, which {command.node} does not have"
        remedy = f"give it: {keys.GIVE} --node {command.node}; or name one that has it: {keys.listed(keyed)}"
        raise Refused(Refusal.NO_KEY, said, remedy)


def _recovered(vm: str, saved: SavedDisk, files: Sequence[Backup]) -> RecoveredDisk:
    """On top of its files in the backup and in all that this stands on; a parent has the same disks (chain.parent_for)."""
    layers = tuple(
        Layer(
            file=each.file, format=DiskFormat.QCOW2, leaving=True,
            origin=Origin(vm=vm, backup=one.id, pool=one.pool, pool_id=one.pool_id, bytes=each.bytes, key=one.key),
        )
        for one in files
        for each in one.disks
        if each.disk == saved.disk
    )  # fmt: skip
    return RecoveredDisk(disk=saved.disk, size_mib=saved.size_mib, layers=layers, vars=saved.vars)


def end(command: EndRecovery, state: Backups) -> Sequence[RecoveryEvent]:
    hold = next((hold for hold in state.holds if hold.recovery == command.recovery), None)
    if hold is None:
        return ()
    return [
        RecoveryEnded(
            vm=VmId(command.vm), target=hold.target, recovery=hold.recovery, end=command.end, sentence=command.sentence,
            grade=graded(hold.watch, command.seen) if command.end is EndKind.INDEPENDENT else None,
        )
    ]  # fmt: skip


def answered(command: AnswerRecovery, state: Backups) -> Sequence[RecoveryEvent]:
    """By the process that runs now; the first answer counts."""
    one, known = next((one for one in state.mute if one.recovery == command.recovery), None), command.known
    if one is None or not known.ordered_us or command.generation != known.generation:
        return ()
    after_ms = max(0, known.at_us - known.ordered_us) // 1000
    return [
        RecoveryAgentHeard(
            vm=VmId(command.vm), target=one.target, recovery=one.recovery, generation=command.generation, after_ms=after_ms
        )
    ]  # fmt: skip
