"""Values of a change of a VM's devices; its messages are in io.py."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Value
from proto.machine import DiskWish, NicWish
from proto.networks import Network
from proto.pools import PoolRoom


class VmPhase(StrEnum):
    """How far a VM is, as far as its devices have to do with it."""

    UNKNOWN = "not defined"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    OUT_OF_SPACE = "out of space"
    STOPPING = "stopping"
    MIGRATING = "migrating"


class IsoAt(Value):
    """Where an ISO is (as Disk.pool and pool_id)."""

    pool: str
    pool_id: str = ""


class Known(Value):
    """What io's own view knew of the VM when it decided; ignored from outside.
    disks, nics: the wishes of its definition, from which a VM that was never
    started gets its devices first; sizes_mib: of the images it and the command name, those that are there; pool_ids: of the node
    that it is on (Disk.pool_id); uefi: it has such firmware. networks: those that they name, as far as there are such; others:
    names of networks there are, where one was named that is not. vcpus_max: of its definition. rooms: the pools that the change is
    about, where they are known. isos: images that CD drives read. fast: of one whose guard promises to start it elsewhere, why that
    could not be with a disk in a pool (`POOL@WORD`; `POOL` where the word is not known yet). unsound: what is wrong with the backup
    that its disks are to be put on, empty: nothing that is known."""

    phase: VmPhase = VmPhase.UNKNOWN
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    sizes_mib: dict[str, int] = {}
    pool_ids: dict[str, str] = {}
    uefi: bool = False
    networks: tuple[Network, ...] = ()
    others: tuple[str, ...] = ()
    vcpus_max: int = 0
    rooms: tuple[PoolRoom, ...] = ()
    isos: dict[str, IsoAt] = {}
    fast: dict[str, str] = {}
    unsound: str = ""


class ChangeKind(StrEnum):
    """undo: an attachment that failed is taken out of the set again. Of snapshots, by whose name the change goes: take; drop:
    it could not be taken; delete: its layers are leaving, merged: and were seen gone; revert. Of a recovery: recover;
    home: its disks stand on no backup any more."""

    ATTACH_DISK = "attach-disk"
    DETACH_DISK = "detach-disk"
    RESIZE_DISK = "resize-disk"
    LIMIT_DISK = "limit-disk"
    SET_MEDIUM = "set-medium"
    ATTACH_NIC = "attach-nic"
    DETACH_NIC = "detach-nic"
    SET_NIC = "set-nic"
    UNDO = "undo"
    TAKE_SNAPSHOT = "take-snapshot"
    DROP_SNAPSHOT = "drop-snapshot"
    DELETE_SNAPSHOT = "delete-snapshot"
    MERGED = "merged"
    REVERT = "revert"
    RECOVER = "recover"
    HOME = "home"


class Change(Value):
    """What was changed. file: that of a detached disk; delete: it is to be removed, else it stays in `pool`. recovery: by which
    one; no device is named then."""

    kind: ChangeKind
    name: str
    slot: int
    file: str = ""
    pool: str = ""
    delete: bool = False
    recovery: str = ""
