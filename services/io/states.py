"""The states of one VM's devices; the machine is drawn in model.py."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import NodeId, Value, VmId
from proto.machine import Disk, Nic
from proto.snapshots import Held


class Unwanted(Value):
    """Files that the agent of `node` is to remove; asked_version: the stream's version at the last wish."""

    node: NodeId
    disks: tuple[Disk, ...]
    asked_version: int


class State(Value, tag=True, kw_only=True):
    """generation: the highest ever granted for this name; version: events folded so far. first: the number of the first disk of
    a VM made anew under this name, above those of files that were left. unwanted: one entry a node, as a node has one order about a
    VM's files at a time."""

    generation: int = 0
    version: int = 0
    first: int = 0
    unwanted: tuple[Unwanted, ...] = ()


class NoDevices(State, kw_only=True):
    """Never granted, or removed."""


class Coming(Value):
    """Asked of a running VM and not seen yet. size_mib: a disk that is to become so large; 0: it is to appear. medium: what is to
    lie in a drive."""

    name: str
    slot: int
    size_mib: int = 0
    medium: str | None = None


class Leaving(Value):
    """Unplugging, not seen done. said: the last sentence about it."""

    name: str
    slot: int
    disk: Disk | None = None
    delete: bool = False
    said: str = ""


class SnapshotState(StrEnum):
    TAKING = "taking"
    TAKEN = "taken"
    DELETING = "deleting"


class Snapshot(Value):
    """strict: its file systems have to stand still. asked_version: the stream's version at the wish to delete it."""

    name: str
    token: str
    disks: tuple[Held, ...]
    state: SnapshotState
    strict: bool = False
    asked_version: int = 0


class Recovering(Value):
    """Its disks stand on a backup of `source`. recovery: empty where the log has lost it. former: what it had, by the node that
    wrote it last; asked_version: the stream's version when they were put there."""

    source: VmId
    recovery: str = ""
    former: tuple[Unwanted, ...] = ()
    asked_version: int = 0


class Made(State, kw_only=True):
    """There are devices. disks_made, nics_made: how many ever were, so that no name comes twice. snapshots: the oldest
    first. kept: disks that were detached, with their files left (keeping.py). recovering: until its disks are its own."""

    vm: VmId
    node: NodeId
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    disks_made: int = 0
    nics_made: int = 0
    snapshots: tuple[Snapshot, ...] = ()
    kept: tuple[Disk, ...] = ()
    recovering: Recovering | None = None


class Granted(Made, kw_only=True):
    """This generation on this node may write. returned_to: the older one that may, once a newer has given them back. ports: the
    slots that its process has. coming, leaving: see there; faults: what was last said of a slot. before: as long as its guest is on
    its way from `source`, and disks go along: what it has there."""

    returned_to: int = 0
    source: NodeId = NodeId("")
    before: tuple[Disk, ...] = ()
    ports: tuple[int, ...] = ()
    coming: tuple[Coming, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    faults: tuple[tuple[int, str], ...] = ()

    @property
    def holder(self) -> int:
        return self.returned_to or self.generation


class Revoked(Made, kw_only=True):
    """The devices are there and nobody writes. node: who wrote last; empty: nobody ever did."""


class Removing(State, kw_only=True):
    """The agent of `node` is ordered to remove the disks; asked_version: the stream's version at that wish."""

    vm: VmId
    node: NodeId
    disks: tuple[Disk, ...]
    asked_version: int


def more_unwanted(state: State, node: str, disks: tuple[Disk, ...], version: int) -> tuple[Unwanted, ...]:
    """`state.unwanted`, with these."""
    disks = tuple(disk for disk in disks if disk.file)
    if not disks:
        return state.unwanted
    known = tuple(d for one in state.unwanted if one.node == node for d in one.disks)
    entry = Unwanted(node=NodeId(node), disks=(*known, *(d for d in disks if d not in known)), asked_version=version)
    return (*(one for one in state.unwanted if one.node != node), entry)


Devices = NoDevices | Granted | Revoked | Removing
