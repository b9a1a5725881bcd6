"""The catalogue of each VM's backups, as the events tell of it. It outlives its VM. Pure.

    taking ──▶ taken ◀──▶ verifying ──▶ damaged
      │          └──────▶ deleting ──▶ gone (or taken again, with a note why)
      └──▶ gone (what failed is told as the VM's latest failure, until one was taken)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from libs.common.messages import Recorded, decode_meta
from proto import io
from proto.machine import Freeze

BackupState = Literal["taking", "taken", "verifying", "deleting", "damaged"]


class BackupDisk(msgspec.Struct):
    """file: in the backup's folder; bytes: of that file; size_mib: what the guest sees."""

    name: str
    file: str
    size_mib: int
    bytes: int
    sha256: str


class VmBackup(msgspec.Struct):
    """kind, parent: as wished until it is taken. bytes: of its own files in the pool; guest_mib: of all its disks. taken_us: the
    instant that it is of, by its node's clock; asked_us, verified_us, damaged_us: by the log's; 0: never. consistency:
    `filesystem`, `crash` or `stopped`; "" until it is taken. damaged: what is wrong with its own files; unsound: the backup beneath
    it that is damaged, so that this one is of no use either. held_by: recoveries that need it. note: why it is full, why file
    systems did not stand still, what hinders it now. plan: the schedule that wanted it. unchanged_us:
    as of then it still held all that was on its VM's disks, by the log's; 0: that was not looked at. task: of the request. key: by
    which its files are encrypted; empty: they are not."""

    id: str
    vm: str
    project: str
    state: BackupState
    kind: str
    pool: str
    node: str
    asked_us: int
    parent: str = ""
    taken_us: int = 0
    guest_mib: int = 0
    bytes: int = 0
    disks: list[BackupDisk] = []
    consistency: str = ""
    freeze: Freeze = Freeze.AUTO
    frozen_ms: int = 0
    took_ms: int = 0
    copied_mib: int = 0
    compress: bool = False
    rate_mibps: int = 0
    verified_us: int = 0
    damaged: str = ""
    damaged_us: int = 0
    unsound: str = ""
    held_by: list[str] = []
    description: str = ""
    note: str = ""
    plan: str = ""
    unchanged_us: int = 0
    pool_id: str = ""
    task: str = ""
    cancelled: bool = False
    key: str = ""

    @property
    def current_us(self) -> int:
        """What the VM wrote until then is in it."""
        return max(self.taken_us, self.unchanged_us)

    @property
    def sound(self) -> bool:
        """It can be recovered from, as far as is known."""
        return bool(self.taken_us) and self.state != "deleting" and not self.damaged and not self.unsound


class BackupFailure(msgspec.Struct):
    """The latest backup of a VM that came to nothing, while none was taken since."""

    id: str
    project: str
    at_us: int
    sentence: str
    plan: str = ""


class BackupRead(msgspec.Struct):
    """Files of a backup were looked at, or (take) taken out. id: its name; by: who; until_us: how long it holds the backup, at the
    latest; ended_us: 0: not told yet. bytes: that went out; whole: all of it did, else note says why not."""

    id: str
    backup: str
    project: str
    node: str
    pool: str
    path: str
    take: bool
    by: str
    at_us: int
    until_us: int
    ended_us: int = 0
    bytes: int = 0
    whole: bool = False
    note: str = ""
    task: str = ""


READS_KEPT_MAX = 32
"""of one VM, the newest; the log has them all"""


@dataclass(slots=True)
class BackupsView:
    """all: of each VM that has some, the oldest first; failures: by VM; reads: of files, by VM, the oldest first."""

    reads: dict[str, list[BackupRead]] = field(default_factory=dict)
    all: dict[str, list[VmBackup]] = field(default_factory=dict)
    failures: dict[str, BackupFailure] = field(default_factory=dict)

    def of(self, vm: str) -> list[VmBackup]:
        return self.all.get(vm, [])

    def reads_of(self, vm: str) -> list[BackupRead]:
        return self.reads.get(vm, [])

    def find(self, vm: str, id: str) -> VmBackup | None:
        return next((one for one in self.of(vm) if one.id == id), None)

    def chain(self, vm: str, id: str) -> Iterator[VmBackup]:
        """It and all that it stands on, the newest first."""
        known = {one.id: one for one in self.of(vm)}
        while (one := known.pop(id, None)) is not None:
            yield one
            id = one.parent

    def newest(self, vm: str) -> VmBackup | None:
        """That can be recovered from."""
        return next((one for one in reversed(self.of(vm)) if one.sound), None)

    def apply(self, recorded: Recorded, event: Any) -> None:
        kind = type(event)
        if kind is io.BackupRequested:
            self.all.setdefault(event.vm, []).append(_asked(recorded, event))
        elif kind in OF_ONE and (one := self.find(event.vm, event.backup)) is not None:
            self._one(one, event, recorded)
        elif kind is io.BackupFilesRead:
            self.reads[event.vm] = [*self.reads_of(event.vm), _read(recorded, event)][-READS_KEPT_MAX:]
        elif kind is io.BackupReadEnded:
            _read_ended(self.reads_of(event.vm), event, recorded.at_us)
        elif kind is io.RecoveryEnded:
            for one in self.of(event.vm):
                one.held_by = [held for held in one.held_by if held != event.recovery]

    def _one(self, one: VmBackup, event: Any, recorded: Recorded) -> None:
        match event:
            case io.BackupCancelRequested() if one.state == "verifying":
                _settle(one)
            case io.BackupCancelRequested():
                one.cancelled, one.note = True, "it is being given up"
            case io.BackupTaken(vm=vm, done=done):
                _taken(one, done)
                self.failures.pop(vm, None)
            case io.BackupFailed(vm=vm):
                if not one.cancelled:
                    self.failures[vm] = BackupFailure(one.id, one.project, recorded.at_us, event.sentence, one.plan)
                self._drop(one)
            case io.BackupDeleteRequested():
                one.state, one.note = "deleting", ""
            case io.BackupDeleteFailed():
                one.note = event.sentence
                _settle(one)
            case io.BackupDeleted():
                self._inherit(one, event.heirs)
                self._drop(one)
            case io.BackupUnchanged():
                one.unchanged_us = recorded.at_us
            case io.BackupVerifyRequested():
                one.state = "verifying"
            case io.BackupVerified():
                self._whole(one, recorded.at_us)
            case io.BackupDamaged(found=found):
                self._damaged(one, found, recorded.at_us)
            case io.RecoveryRequested(vm=vm, recovery=recovery):
                for held in self.chain(vm, one.id):
                    held.held_by = [*held.held_by, recovery]

    def _drop(self, gone: VmBackup) -> None:
        self.all[gone.vm] = [one for one in self.of(gone.vm) if one is not gone]
        if not self.all[gone.vm]:
            del self.all[gone.vm]

    def _inherit(self, gone: VmBackup, heirs: dict[str, tuple[io.SavedDisk, ...]]) -> None:
        """What stood on it stands on what it stood on."""
        for one in self.of(gone.vm):
            if one.parent == gone.id:
                one.parent = gone.parent
                one.kind = one.kind if one.parent else io.BackupKind.FULL.value
            if one.id in heirs:
                _files(one, heirs[one.id])
        self._judge(gone.vm, without=gone.id)

    def _whole(self, verified: VmBackup, at_us: int) -> None:
        """All that it consists of was read, and is what was written."""
        for one in self.chain(verified.vm, verified.id):
            one.verified_us, one.damaged, one.damaged_us = at_us, "", 0
            if one is verified or one.state == "damaged":
                _settle(one)
        self._judge(verified.vm)

    def _damaged(self, read: VmBackup, found: dict[str, str], at_us: int) -> None:
        """All that it consists of was read: what is not found damaged is sound."""
        for one in self.chain(read.vm, read.id):
            one.damaged = found.get(one.id, "")
            one.damaged_us = (one.damaged_us or at_us) if one.damaged else 0
            if one.state != "deleting":
                _settle(one)
        self._judge(read.vm)

    def _judge(self, vm: str, without: str = "") -> None:
        """Which ones stand on a damaged one."""
        for one in self.of(vm):
            beneath = (each for each in self.chain(vm, one.id) if each is not one and each.id != without)
            one.unsound = next((each.id for each in beneath if each.damaged), "")


def _asked(recorded: Recorded, event: io.BackupRequested) -> VmBackup:
    meta = decode_meta(recorded.meta)
    kind = io.BackupKind.INCREMENTAL if event.parent else io.BackupKind.FULL
    return VmBackup(
        id=event.backup, vm=event.vm, project=meta.project, state="taking", kind=kind.value, pool=event.pool, node=event.node,
        asked_us=recorded.at_us, parent=event.parent, guest_mib=sum(disk.size_mib for disk in event.disks if not disk.bus.is_cd),
        freeze=event.freeze, compress=event.compress, rate_mibps=event.rate_mibps, description=event.description, plan=event.plan,
        pool_id=event.pool_id, task=meta.correlation, key=event.key,
    )  # fmt: skip


def _read(recorded: Recorded, event: io.BackupFilesRead) -> BackupRead:
    meta = decode_meta(recorded.meta)
    return BackupRead(
        id=event.read, backup=event.backup, project=meta.project, node=event.node, pool=event.pool, path=event.path,
        take=event.take, by=meta.actor, at_us=event.at_us, until_us=event.until_us, task=meta.correlation,
    )  # fmt: skip


def _read_ended(reads: list[BackupRead], event: io.BackupReadEnded, at_us: int) -> None:
    for one in reads:
        if one.id == event.read:
            one.ended_us, one.bytes, one.whole, one.note = at_us, event.bytes, event.whole, event.sentence


def _taken(one: VmBackup, done: io.BackupDone) -> None:
    one.state, one.kind, one.parent, one.taken_us = "taken", done.kind.value, done.parent, done.at_us
    one.consistency, one.frozen_ms, one.took_ms = done.consistency.value, done.frozen_ms, done.took_ms
    one.copied_mib, one.note, one.cancelled = done.copied_mib, done.sentence, False
    _files(one, done.disks)


def _files(one: VmBackup, disks: tuple[io.SavedDisk, ...]) -> None:
    one.disks = [BackupDisk(disk.disk, disk.file, disk.size_mib, disk.bytes, disk.sha256) for disk in disks]
    one.bytes, one.guest_mib = sum(disk.bytes for disk in disks), sum(disk.size_mib for disk in disks)


def _settle(one: VmBackup) -> None:
    """Nothing is being done with it any more."""
    one.state = "damaged" if one.damaged else "taken"


OF_ONE = frozenset({
    io.BackupCancelRequested, io.BackupTaken, io.BackupFailed, io.BackupDeleteRequested, io.BackupDeleted, io.BackupDeleteFailed,
    io.BackupVerifyRequested, io.BackupVerified, io.BackupDamaged, io.RecoveryRequested,
    io.BackupUnchanged,
})  # fmt: skip
"""events about one backup that is known; all else, but for the first and for a recovery's end, is passed over by one look"""
