"""What one VM's backups are; the machine is drawn in model.py."""

from __future__ import annotations

from libs.common.messages import NodeId, Value, VmId
from proto.backup_plans import BackupPlan
from proto.backups import BackupKind, BackupRequested, Definition, SavedDisk, Usual
from proto.hardware import Consistency
from proto.machine import Disk
from proto.recovery import Limit
from services.io.backups.drill_states import Drills


class Backup(Value):
    """One that is there, whole. parent: what it stands on, empty: nothing; taken_us: the instant that it is of, by its node's
    clock; damaged: what is wrong with its own files, empty: nothing that is known. plan: the schedule that wanted it, empty:
    somebody asked; due_us: its time that it is for; checked_us: the newest time of a schedule for which it was read again. key: by
    which it is encrypted, empty: it is not."""

    id: str
    kind: BackupKind
    pool: str
    pool_id: str
    disks: tuple[SavedDisk, ...]
    definition: Definition
    taken_us: int
    parent: str = ""
    consistency: Consistency = Consistency.CRASH
    damaged: str = ""
    plan: str = ""
    due_us: int = 0
    checked_us: int = 0
    normal: Usual = Usual()
    key: str = ""


class Taking(Value, tag=True):
    """asked_version: the stream's version at the wish; cancelled_version: likewise, at the wish to give it up; 0: it is not."""

    wish: BackupRequested
    asked_version: int
    cancelled_version: int = 0

    @property
    def backup(self) -> str:
        return self.wish.backup

    @property
    def node(self) -> NodeId:
        return self.wish.node


class Deleting(Value, tag=True):
    """heirs: those that stand on it, and are first put on what it stands on itself."""

    backup: str
    node: NodeId
    asked_version: int
    heirs: tuple[str, ...] = ()
    plan: str = ""


class Verifying(Value, tag=True):
    backup: str
    node: NodeId
    asked_version: int
    due_us: int = 0


Activity = Taking | Deleting | Verifying


class Left(Value):
    """What a backup that came to nothing may have left; the agent of `node` is to remove it."""

    backup: str
    node: NodeId
    pool: str
    asked_version: int


class Watch(Value):
    """What was said of how a recovery goes. start: its VM is to be started; notes: how many were written; noted_us, percent,
    forecast_us: of the latest, first_us: what the first forecast; worst_times: as far as it was written; risks: promises of which
    it was said that they would be missed."""

    start: bool = True
    notes: int = 0
    noted_us: int = 0
    percent: float = 0.0
    forecast_us: int = 0
    first_us: int = 0
    worst_times: float = 0.0
    risks: tuple[Limit, ...] = ()


class Hold(Value):
    """A recovery that stands on a backup, and on all that this stands on."""

    recovery: str
    backup: str
    target: VmId
    watch: Watch = Watch()


class Resting(Value):
    """The newest backup, where it was taken at rest: of which disks, and which generation was the last that might write them."""

    backup: str
    disks: tuple[Disk, ...]
    written: int


MUTE_MAX = 16


class Mute(Value):
    """A recovery whose guest's agent has not answered yet."""

    recovery: str
    target: VmId


class Reading(Value):
    """Files are read out of a backup, which is held meanwhile. take: something is taken out; else a folder was listed."""

    read: str
    backup: str
    take: bool
    until_us: int


class Retry(Value):
    """failures: in a row; until_us: not before then; 0: nobody was told yet when it is tried again."""

    failures: int = 0
    until_us: int = 0
    sentence: str = ""

    @property
    def unsaid(self) -> bool:
        return bool(self.failures) and not self.until_us


class Schedule(Value):
    """since_us: as it was set; planned_us: its newest time that was seen to, or as it was set: times after that count. taking,
    letting: what failed of taking backups, and of deleting them."""

    plan: BackupPlan
    since_us: int
    planned_us: int
    taking: Retry = Retry()
    letting: Retry = Retry()


class Backups(Value):
    """backups: the oldest first, by the log. doing: one thing at a time is done with them. version: events folded so far. schedule:
    None: nothing is done by itself. drills: None: it has neither a plan for them nor one that goes on.
    mute: the newest MUTE_MAX. resting: None: the newest was taken of a guest that ran."""

    version: int = 0
    backups: tuple[Backup, ...] = ()
    doing: Activity | None = None
    left: tuple[Left, ...] = ()
    holds: tuple[Hold, ...] = ()
    schedule: Schedule | None = None
    drills: Drills | None = None
    mute: tuple[Mute, ...] = ()
    resting: Resting | None = None
    reads: tuple[Reading, ...] = ()
