"""What io does with a backup because of others: what it is taken of ended, who works on it is lost. Pure; a part of react.py.

An agent says itself how a backup went. One that is lost never does: then the end of the process that was read is the word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from proto.backups import BackupDeleteRequested, BackupFailed, BackupRequested, BackupVerifyRequested, EndBackup
from proto.compute import NodeRemoved, VmStartRequested, VmStopped
from proto.devices import VmPhase
from proto.lease import NodeLost
from proto.migration import VmMigrated

if TYPE_CHECKING:
    from services.io.views import Views


def react(event: Any, views: Views) -> Sequence[EndBackup]:
    match event:
        case VmStopped(vm=vm, generation=generation):
            return _ended(vm, generation, f"{vm} ended on {event.node} while it was backed up", views)
        case VmMigrated(vm=vm, source_generation=generation):
            return _ended(vm, generation, f"{vm} moved away from {event.source} while it was backed up", views)
        case VmStartRequested(vm=vm):
            return _started(vm, views)
        case BackupRequested(vm=vm, generation=generation):
            phase = views.vms[vm].phase if vm in views.vms else VmPhase.STOPPED
            if not generation:
                return () if phase is VmPhase.STOPPED else _started(vm, views)
            return _ended(vm, generation, f"{vm} had ended by then", views) if phase is VmPhase.STOPPED else ()
        case NodeLost(node=node):
            return list(_lost(node, views, whole=event.proof.everything))
        case NodeRemoved(node=node):
            return list(_removed(node, views))
        case _:
            return ()


def too_late(event: Any, views: Views) -> Sequence[EndBackup]:
    """Decided of a node that is none of the cluster any more: its removal came between, and nobody hears of that again."""
    match event:
        case BackupRequested(vm=vm) | BackupDeleteRequested(vm=vm) | BackupVerifyRequested(vm=vm):
            node = str(event.node)
        case BackupFailed(left=True, vm=vm):
            node = views.backups.left.get(vm, {}).get(event.backup, "")
        case _:
            return ()
    if not node or node in views.nodes:
        return ()
    return [EndBackup(vm=vm, backup=event.backup, sentence=_gone(node), removed=True)]


def _gone(node: str) -> str:
    return f"{node} was removed from the cluster"


def _ended(vm: str, generation: int, sentence: str, views: Views) -> Sequence[EndBackup]:
    doing = views.backups.doing.get(vm)
    if doing is None or not 0 < doing.generation <= generation:
        return ()
    return [EndBackup(vm=vm, backup=doing.backup, sentence=sentence)]


def _started(vm: str, views: Views) -> Sequence[EndBackup]:
    """Its disks are read while it is at rest, and are to be written: to run is worth more."""
    doing = views.backups.doing.get(vm)
    if doing is None or doing.generation:
        return ()
    return [EndBackup(vm=vm, backup=doing.backup, sentence=f"{vm} was started while it was backed up at rest")]


def _lost(node: str, views: Views, *, whole: bool) -> Iterator[EndBackup]:
    """whole: nothing of that node goes on, so that what it was writing anew may be written by another."""
    for vm, doing in sorted(views.backups.doing.items()):
        if doing.node == node and (whole or not doing.deletes):
            yield EndBackup(vm=vm, backup=doing.backup, sentence=f"{node} was lost")


def _removed(node: str, views: Views) -> Iterator[EndBackup]:
    said = _gone(node)
    for vm, doing in sorted(views.backups.doing.items()):
        if doing.node == node:
            yield EndBackup(vm=vm, backup=doing.backup, sentence=said, removed=True)
    for vm, left in sorted(views.backups.left.items()):
        for backup in sorted(id for id, at in left.items() if at == node):
            yield EndBackup(vm=vm, backup=backup, sentence=said, removed=True)
