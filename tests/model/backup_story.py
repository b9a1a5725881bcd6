"""A VM that is backed up, as the log tells of it: what many tests begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.messages import Value
from libs.common.testing import Spec
from proto.backups import (
    BackupDone,
    BackupKind,
    BackupKnown,
    BackupRequested,
    BackupTaken,
    Definition,
    DeleteBackup,
    ReportBackup,
    ReportBackupRemoved,
    ReportBackupVerified,
    SavedDisk,
    TakeBackup,
    VerifyBackup,
)
from proto.devices import VmPhase
from proto.machine import Disk
from proto.pools import PoolRoom
from proto.recovery import RecoverKnown, RecoverVm
from services.io.backups.model import BACKUPS
from services.io.backups.states import Backups, Taking
from tests.model.compute_story import BOOT, SHAPE
from tests.model.io_story import DISKS, GRANT, N1, A

T0 = 1_700_000_000_000_000
HOUR_US = 3_600_000_000
backups = Spec(BACKUPS)
MADE = tuple(replace(disk, made=True, pool_id="p1") for disk in DISKS)
DEFINITION = Definition(shape=SHAPE, disks=GRANT.disks, nics=GRANT.nics, boot=BOOT, boot_image="tiny")
ROOM = PoolRoom(name="safe", id="s1", size_mib=1000, free_mib=900)
RUNS = BackupKnown(
    phase=VmPhase.RUNNING, definition=DEFINITION, node="n1", generation=1, disks=MADE, reached=True, room=ROOM
)
RESTS = replace(RUNS, phase=VmPhase.STOPPED, generation=0)
TAKE = TakeBackup(vm="a", pool="safe", known=RUNS)
B1, B2, B3 = "b1-1", "b1-3", "b1-5"
"""the first three, where nothing else was decided"""
DELETE = DeleteBackup(vm="a", backup=B1, node="n2", room=ROOM)
VERIFY = VerifyBackup(vm="a", backup=B1, node="n2")
RECOVER = RecoverVm(vm="a", target="b", known=RecoverKnown(nodes=dict.fromkeys((B1, B2, B3), ("n1", "n2")), images=("tiny",)))
IN_PLACE = replace(RECOVER, target="a", lose="a", known=replace(RECOVER.known, phase=VmPhase.STOPPED))


def saved(disks: Sequence[Disk], backup: str, bytes: int = 1 << 20) -> tuple[SavedDisk, ...]:
    return tuple(
        SavedDisk(disk=d.name, file=f"a-{d.name}.{backup}.qcow2", size_mib=d.size_mib, bytes=bytes, sha256="a" * 64)
        for d in disks
    )


def done(wish: BackupRequested, at_us: int, *, full: bool = False, bytes: int = 1 << 20) -> BackupDone:
    """As its agent says that it went."""
    parent = "" if full else wish.parent
    kind = BackupKind.INCREMENTAL if parent else BackupKind.FULL
    return BackupDone(kind=kind, parent=parent, disks=saved(wish.disks, wish.backup, bytes), at_us=at_us)


def reported(events: Sequence[Any], at_us: int = T0, **how: Any) -> ReportBackup:
    """By the agent that was ordered to take one."""
    state = BACKUPS.fold(events)
    assert isinstance(state.doing, Taking)
    wish = state.doing.wish
    return ReportBackup(vm="a", node=wish.node, backup=wish.backup, order_version=state.version, done=done(wish, at_us, **how))


def after(*given: Any, command: Any) -> tuple[Any, ...]:
    """What is decided then, checked on its way."""
    outcome = backups.given(*given).when(command)
    assert outcome.refusal is None, outcome.refusal
    return outcome.events


def story(*commands: Any, begin: tuple[Any, ...] = (), **how: Any) -> tuple[Any, ...]:
    """Each is decided, and its agents do what they are told; the n-th is of T0 and n hours."""
    events = begin
    for n, command in enumerate(commands):
        events += after(*events, command=command)
        state = BACKUPS.fold(events)
        match state.doing:
            case Taking():
                events += after(*events, command=reported(events, T0 + n * HOUR_US, **how))
            case None:
                pass
            case doing:
                events += after(*events, command=_worked(doing, state))
    return events


def _worked(doing: Any, state: Backups) -> Any:
    report = {"vm": "a", "node": doing.node, "backup": doing.backup, "order_version": state.version}
    if hasattr(doing, "heirs"):
        return ReportBackupRemoved(heirs={heir: saved(MADE, f"{heir}.anew") for heir in doing.heirs}, **report)
    return ReportBackupVerified(read_mib=3, **report)


def asked(*given: Any, command: TakeBackup = TAKE) -> BackupRequested:
    (event,) = after(*given, command=command)
    assert isinstance(event, BackupRequested)
    return event


def there(events: Sequence[Any]) -> dict[str, str]:
    """Backup -> what it stands on."""
    return {one.id: one.parent for one in BACKUPS.fold(events).backups}


def doing(events: Sequence[Any]) -> Value | None:
    return BACKUPS.fold(events).doing


THREE = story(TAKE, TAKE, TAKE)
assert [event.backup for event in THREE if isinstance(event, BackupTaken)] == [B1, B2, B3]
assert A == "a" and N1 == "n1"
