"""compute: a VM stands still because a pool is full, and goes on (streams `vm-NAME`); what agents say of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from libs.common.messages import Event, NodeId, Value, VmId


class PoolKind(StrEnum):
    """`local`: a folder on a disk of the node; `shared`: one on a file system that other nodes mount too (NFS, or a cluster
    file system); `nbd`, `rbd`: no folder at all."""

    LOCAL = "local"
    SHARED = "shared"
    NBD = "nbd"
    RBD = "rbd"


class FileNow(Value):
    """A disk's file, and what it takes of its pool by now."""

    file: str
    used_mib: int


class PoolNow(Value):
    """A pool as a node sees it. free_mib: what VMs may still write, without what the file system keeps for root; sizes are -1 where
    nobody says. error: why nothing is known. disks_mib, images_mib, files: what is in it, where that was looked at; not all files
    where there are many. backups: it is no folder, and takes backups all the same."""

    name: str
    id: str = ""
    kind: PoolKind = PoolKind.LOCAL
    size_mib: int = -1
    free_mib: int = -1
    error: str = ""
    disks_mib: int = -1
    images_mib: int = -1
    files: tuple[FileNow, ...] = ()
    backups: bool = False


class FullDisk(Value):
    """A disk that could not be written for want of room. free_mib, size_mib: of its pool, when the VM stopped (-1: not known);
    needed_mib: what has to be free before it goes on."""

    disk: str
    pool: str
    pool_id: str = ""
    free_mib: int = -1
    size_mib: int = -1
    needed_mib: int = 0


def said(full: Sequence[FullDisk]) -> str:
    """In one sentence, with the numbers."""
    return "; ".join(_said(disk) for disk in full)


def _said(disk: FullDisk) -> str:
    room = f" ({disk.free_mib} of {disk.size_mib} MiB free)" if disk.size_mib >= 0 else ""
    needed = f"; it goes on once {disk.needed_mib} MiB are free" if disk.needed_mib else ""
    return f"pool {disk.pool} has no room for what it writes to {disk.disk}{room}{needed}"


class VmRanOutOfSpace(Event):
    """Its guest stands still, with a write that its pool had no room for. Nothing is lost: the write is done once there is room."""

    vm: VmId
    node: NodeId
    generation: int
    disks: tuple[FullDisk, ...]


class VmSpaceRegained(Event):
    """There was room again, and the guest was seen to go on."""

    vm: VmId
    node: NodeId
    generation: int


SpaceEvent = VmRanOutOfSpace | VmSpaceRegained
