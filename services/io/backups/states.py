"""What one VM's backups are; the machine is drawn in model.py."""

from __future__ import annotations

from libs.common.messages import NodeId, Value, VmId
from proto.backups import BackupKind, BackupRequested, Definition, SavedDisk
from proto.hardware import Consistency


class Backup(Value):
    """One that is there, whole. parent: what it stands on, empty: nothing; taken_us: the instant that it is of, by its node's
    clock; damaged: what is wrong with its own files, empty: nothing that is known."""

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


class Verifying(Value, tag=True):
    backup: str
    node: NodeId
    asked_version: int


Activity = Taking | Deleting | Verifying


class Left(Value):
    """What a backup that came to nothing may have left; the agent of `node` is to remove it."""

    backup: str
    node: NodeId
    pool: str
    asked_version: int


class Hold(Value):
    """A recovery that stands on a backup, and on all that this stands on."""

    recovery: str
    backup: str
    target: VmId


class Backups(Value):
    """backups: the oldest first, by the log. doing: one thing at a time is done with them. version: events folded so far."""

    version: int = 0
    backups: tuple[Backup, ...] = ()
    doing: Activity | None = None
    left: tuple[Left, ...] = ()
    holds: tuple[Hold, ...] = ()
