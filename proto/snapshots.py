"""io: snapshots of a VM (streams `devices-VM`). A part of io.py; docs/decisions/0022-snapshots.md.

A snapshot is of all disks at one instant: from then on each disk is a new file on top of the one that was.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Name, NodeId, Value, VmId
from proto.devices import Known
from proto.hardware import Consistency
from proto.machine import DiskFormat, DiskMib, Freeze

Description = Annotated[str, msgspec.Meta(max_length=256)]


class Held(Value):
    """A disk in a snapshot. file: what holds it, with the layers beneath; over: the file that was put on top of it."""

    name: str
    file: str
    size_mib: DiskMib
    format: DiskFormat
    over: str


class TakeSnapshot(Command):
    vm: Name
    name: Name
    description: Description = ""
    freeze: Freeze = Freeze.AUTO
    known: Known = Known()
    incarnation: int = 1


class DeleteSnapshot(Command):
    """What it holds alone is merged away; the VM is not stopped for it."""

    vm: Name
    name: Name
    known: Known = Known()


class RevertSnapshot(Command):
    """The VM's disks are again as they were. lose: what is thrown away, by name: the VM, for what it wrote since, and each snapshot
    that is newer."""

    vm: Name
    name: Name
    lose: tuple[str, ...] = ()
    known: Known = Known()
    incarnation: int = 1


class ReportDisksMerged(Fact):
    """At rest: none of the layers that were leaving is stood on any more."""

    vm: Name
    order_version: int
    order_incarnation: int = 1
    incarnation: int = 1


class SnapshotRequested(Event):
    """generation: of the process that is to take it; 0: there is none. token: in the names of the new files."""

    vm: VmId
    node: NodeId
    generation: int
    name: str
    token: str
    freeze: Freeze
    disks: tuple[Held, ...]
    description: str = ""


class SnapshotTaken(Event):
    """frozen_ms: how long the guest's file systems stood still; sentence: why they did not, where that was not asked for. unseen:
    its process ended before the new files were seen; they may not be there yet."""

    vm: VmId
    generation: int
    name: str
    consistency: Consistency
    frozen_ms: int = 0
    took_ms: int = 0
    sentence: str = ""
    unseen: bool = False


class SnapshotFailed(Event):
    """It is not there. unseen: whether its files are on top was not seen: what they stand on is merged as that of a deleted one."""

    vm: VmId
    generation: int
    name: str
    sentence: str
    unseen: bool = False


class SnapshotFound(Event):
    """The log was restored, and had lost it: its files are beneath the disks of a VM that was found running. leaving: it was being
    deleted."""

    vm: VmId
    name: str
    token: str
    disks: tuple[Held, ...]
    leaving: bool = False


class SnapshotDeleteRequested(Event):
    vm: VmId
    node: NodeId
    generation: int
    name: str


class SnapshotDeleted(Event):
    """Seen merged. files: of no use any more; the agent of `node` is to remove them. One whose disks were put on a backup is
    gone with what they were; then nothing is said of files here (DisksRecovered.former)."""

    vm: VmId
    node: NodeId
    generation: int
    name: str
    files: tuple[str, ...] = ()


class SnapshotReverted(Event):
    """lost: the newer snapshots, which are gone; files: likewise; token: in the names of the new files."""

    vm: VmId
    node: NodeId
    name: str
    token: str
    lost: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


SnapshotCommand = TakeSnapshot | DeleteSnapshot | RevertSnapshot
SnapshotWish = SnapshotCommand | ReportDisksMerged
SnapshotEvent = (
    SnapshotRequested
    | SnapshotTaken
    | SnapshotFailed
    | SnapshotFound
    | SnapshotDeleteRequested
    | SnapshotDeleted
    | SnapshotReverted
)
