"""io: backups of a VM (streams `backups-VM`). A part of io.py; docs/decisions/0045-backups.md. What is recovered: recovery.py.

A backup is of all disks of a VM at one instant: a folder in a pool, with a qcow2 file for each disk and a manifest that says all
that is needed to make the VM anew. An incremental one stands on its parent, file by file. The stream outlives its VM.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Name, NodeId, Value, VmId
from proto.devices import VmPhase
from proto.hardware import Consistency
from proto.machine import (
    BACKUP_NAME,
    KEY_ID,
    Allotment,
    DirectBoot,
    Disk,
    DiskMib,
    DiskWish,
    FileName,
    Freeze,
    NicWish,
    Priority,
    Sha256,
    Shape,
)
from proto.pools import PoolRoom
from proto.snapshots import Description

BACKUPS_MAX = 512
"""of one VM"""
CHAIN_MAX = 8
"""files that one disk in a backup consists of, its own included: the next one is full"""
RateMibps = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
"""0: no limit"""
KeyId = Annotated[str, msgspec.Meta(pattern=KEY_ID)]
"""NAME-FINGERPRINT (libs/common/backup_key.py); the key itself is in no message. Empty: none"""
KeyWord = Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,47})?$")]
"""a key's name or its id; empty: the only one that there is"""
BackupName = Annotated[str, msgspec.Meta(pattern=BACKUP_NAME, max_length=63)]
"""`bINCARNATION-VERSION`, of the stream's version that decided it: no timeline of the log gives one twice"""


class BackupKind(StrEnum):
    """full: stands on nothing; incremental: holds what was written since its parent."""

    FULL = "full"
    INCREMENTAL = "incremental"


class Definition(Value):
    """What a VM was when it was backed up, and is when it is made anew."""

    shape: Shape
    disks: tuple[DiskWish, ...]
    nics: tuple[NicWish, ...]
    priority: Priority = Priority.NORMAL
    boot: DirectBoot | None = None
    boot_image: str = ""
    allotment: Allotment = Allotment()


class SavedDisk(Value):
    """A disk in a backup. disk: its name; file: in the backup's folder; size_mib: what the guest sees; bytes: of the file, with
    sha256 over all of them. vars: the copy of its UEFI variables in the same folder, where it has some."""

    disk: Name
    file: FileName
    size_mib: DiskMib
    bytes: int
    sha256: Sha256
    vars: str = ""
    vars_sha256: str = ""


class Usual(Value):
    """What one of a guest's writes, and one of its reads, took on average since its process began; microseconds, 0: not known."""

    write_us: int = 0
    read_us: int = 0


class BackupDone(Value):
    """How taking one went. kind: incremental only where that could be had: sentence says why not, or why the guest's file systems
    did not stand still. parent: what it stands on; at_us: the instant that it is of, by its node's clock; frozen_ms: how long file
    systems stood still; took_ms: all of it; copied_mib: what was read of the guest's disks. normal: how fast its disks were for the
    guest by then. key: by which its files are encrypted; empty: they are not."""

    kind: BackupKind
    disks: tuple[SavedDisk, ...]
    at_us: int
    parent: str = ""
    consistency: Consistency = Consistency.CRASH
    frozen_ms: int = 0
    took_ms: int = 0
    copied_mib: int = 0
    sentence: str = ""
    normal: Usual = Usual()
    key: str = ""


class BackupKnown(Value):
    """By io's own view, of the VM that is to be backed up; ignored from outside. definition: None: there is no such VM. disks: as
    they are granted, or were last; generation: of its process, 0: none runs; written: of the last that might write them. reached:
    the VM's node has the pool; room: it. Where it has not: has: the pools that it has; nodes: those that have the pool. keys: of
    each key of backups, the nodes that have it."""

    phase: VmPhase = VmPhase.UNKNOWN
    definition: Definition | None = None
    node: str = ""
    generation: int = 0
    disks: tuple[Disk, ...] = ()
    reached: bool = False
    room: PoolRoom | None = None
    has: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    written: int = 0
    keys: dict[str, tuple[str, ...]] = {}


class TakeBackup(Command):
    """full: also where an incremental one could be had. compress: by zstd. rate_mibps: how fast the guest's disks are read.
    encrypt: its files are, by `key`."""

    vm: Name
    pool: Name
    full: bool = False
    freeze: Freeze = Freeze.AUTO
    rate_mibps: RateMibps = 0
    compress: bool = False
    description: Description = ""
    known: BackupKnown = BackupKnown()
    incarnation: int = 1
    encrypt: bool = False
    key: KeyWord = ""


class CancelBackup(Command):
    """What is being taken is given up; what there is of it is removed. Of one that is being verified, that is given up."""

    vm: Name
    backup: BackupName


class EndBackup(Command):
    """io to itself: the process that the backup is taken of has ended, or the node that works on it is lost, and never says so.
    removed: the node is of the cluster no more. node: another that reaches the pool; filled in by io's own view."""

    vm: Name
    backup: BackupName
    sentence: str
    removed: bool = False
    node: str = ""


class ReportBackup(Fact):
    """done: it is there, whole; else sentence says why it is not, and nothing of it is left."""

    vm: Name
    backup: BackupName
    order_version: int
    done: BackupDone | None = None
    sentence: str = ""
    order_incarnation: int = 1
    incarnation: int = 1


class DeleteBackup(Command):
    """Those that stand on it are put on what it stands on first. node: whose agent is to do it; filled in by io's own view, as are
    rooms, standing: a VM whose disks stand on it, whatever holds it; unheard: nodes on which one may, unknown (as
    StartVm.unheard); keyless: of an encrypted one: the nodes that reach it, none of which has its key. at_us:
    the time."""

    vm: Name
    backup: BackupName
    node: str = ""
    room: PoolRoom | None = None
    standing: str = ""
    unheard: tuple[str, ...] = ()
    incarnation: int = 1
    keyless: tuple[str, ...] = ()
    at_us: int = 0


class ReportBackupRemoved(Fact):
    """heirs: of each backup that stood on it, its files as they are now. sentence: why it could not be done; nothing was
    changed then."""

    vm: Name
    backup: BackupName
    order_version: int
    heirs: dict[str, tuple[SavedDisk, ...]] = {}
    sentence: str = ""
    order_incarnation: int = 1
    incarnation: int = 1


class VerifyBackup(Command):
    """Read again, it and all that it stands on, and compare with the digests. node: as in DeleteBackup."""

    vm: Name
    backup: BackupName
    node: str = ""


class ReportBackupVerified(Fact):
    """damaged: by backup (the one or what it stands on), what is wrong with it. read_mib: of the files."""

    vm: Name
    backup: BackupName
    order_version: int
    damaged: dict[str, str] = {}
    read_mib: int = 0
    took_ms: int = 0
    order_incarnation: int = 1
    incarnation: int = 1


# --- events --------------------------------------------------------------------------------------------------------------


class BackupRequested(Event):
    """parent: what it is to stand on, where the guest's process still knows what was written since; empty: it is to be full.
    plan: the schedule that wanted it; empty: somebody asked; due_us: its time that it is for. generation: of the process that is
    read; 0: the VM is at rest. written: of the last that might write its disks, 0: not known. key, why_full: as
    in OrderBackup."""

    vm: VmId
    backup: str
    node: NodeId
    generation: int
    pool: str
    pool_id: str
    disks: tuple[Disk, ...]
    definition: Definition
    parent: str = ""
    freeze: Freeze = Freeze.AUTO
    rate_mibps: int = 0
    compress: bool = False
    description: str = ""
    plan: str = ""
    due_us: int = 0
    written: int = 0
    key: str = ""
    why_full: str = ""


class BackupCancelRequested(Event):
    vm: VmId
    backup: str


class BackupTaken(Event):
    vm: VmId
    backup: str
    done: BackupDone


class BackupFailed(Event):
    """left: what there is of it is still to be removed by its node."""

    vm: VmId
    backup: str
    sentence: str
    left: bool = False


class BackupDeleteRequested(Event):
    """heirs: backups that stand on it. plan: the schedule that lets it go; empty: somebody asked."""

    vm: VmId
    backup: str
    node: NodeId
    heirs: tuple[str, ...] = ()
    plan: str = ""


class BackupDeleted(Event):
    """heirs: as in ReportBackupRemoved. sentence: why nobody has seen its files removed, empty: they were."""

    vm: VmId
    backup: str
    heirs: dict[str, tuple[SavedDisk, ...]] = {}
    sentence: str = ""


class BackupDeleteFailed(Event):
    vm: VmId
    backup: str
    sentence: str


class BackupVerifyRequested(Event):
    """due_us: the schedule's time that it is for; 0: somebody asked."""

    vm: VmId
    backup: str
    node: NodeId
    due_us: int = 0


class BackupVerified(Event):
    """All that it consists of is what was written."""

    vm: VmId
    backup: str
    read_mib: int
    took_ms: int


class BackupDamaged(Event):
    """found: the backup whose own files are damaged: those that stand on it are of no use either."""

    vm: VmId
    backup: str
    found: dict[str, str]


BackupsCommand = (
    TakeBackup
    | CancelBackup
    | EndBackup
    | ReportBackup
    | DeleteBackup
    | ReportBackupRemoved
    | VerifyBackup
    | ReportBackupVerified
)
BackupsEvent = (
    BackupRequested
    | BackupCancelRequested
    | BackupTaken
    | BackupFailed
    | BackupDeleteRequested
    | BackupDeleted
    | BackupDeleteFailed
    | BackupVerifyRequested
    | BackupVerified
    | BackupDamaged
)
