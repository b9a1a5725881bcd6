"""Tasks about a VM's snapshots: begun by the wish, ended by what is seen. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import io
from services.gateway.words import count

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

TAKE, DELETE, REVERT = "take-snapshot", "delete-snapshot", "revert"
KINDS = (
    io.ChangeKind.TAKE_SNAPSHOT, io.ChangeKind.DROP_SNAPSHOT, io.ChangeKind.DELETE_SNAPSHOT, io.ChangeKind.MERGED,
    io.ChangeKind.REVERT,
)  # fmt: skip


def snapshots(s: _Story) -> bool:
    match s.event:
        case io.DevicesChanged(change=io.Change(kind=kind)):
            return kind in KINDS
        case io.SnapshotRequested(vm=vm, name=name, node=node):
            where = f"{node} was told to take it" if s.event.generation else "its disks are at rest"
            s.begin(TAKE, f"{vm}/{name}", f"{count(len(s.event.disks), "disk")}: {where}")
        case io.SnapshotTaken(vm=vm, name=name, consistency=consistency, sentence=said):
            how = f"frozen for {s.event.frozen_ms} ms" if s.event.frozen_ms else said
            s.done(TAKE, f"{vm}/{name}", f"{name} of {vm} is taken ({consistency}{f': {how}' if how else ''})")
        case io.SnapshotFailed(vm=vm, name=name, sentence=said):
            s.failed(TAKE, f"{vm}/{name}", f"{name} of {vm} was not taken: {said}")
        case io.SnapshotDeleteRequested(vm=vm, name=name, node=node):
            s.begin(DELETE, f"{vm}/{name}", f"{node} was told to merge it")
        case io.SnapshotDeleted(vm=vm, name=name):
            s.done(DELETE, f"{vm}/{name}", f"{name} of {vm} is gone")
        case io.SnapshotReverted(vm=vm, name=name, lost=lost):
            also = f"; gone with it: {', '.join(lost)}" if lost else ""
            s.at_once(REVERT, vm, f"{vm} starts as it was at {name}{also}")
        case io.SnapshotFound():
            pass
        case io.DeviceMisfit(vm=vm, name=name, pending=True) if s.tasks.opened(f"{DELETE}:{vm}/{name}") is not None:
            s.step(DELETE, f"{vm}/{name}", f"pending: {s.event.sentence}")
        case _:
            return False
    return True
