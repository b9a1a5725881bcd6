"""compute: a VM's size is changed, at rest or while it runs (streams `vm-NAME`)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, NodeId, Value, VmId
from proto.hardware import Drift, Hardware
from proto.machine import Allotment, MemoryBy, Priority, Shape

MAX_VCPUS = 512
MAX_MIB = 16 * 1024 * 1024


class ResizeVm(Command):
    """0: as it is. vcpus_max, memory_max_mib: the head-room, which is fixed at each start and so changed at rest only.
    memory_by: likewise at rest only; none: as it is. vcpus_free: how many more vCPUs its node may promise; filled in by
    compute's own view, -1: it is on none. cells: likewise, of one that is to lie in one NUMA cell: vCPUs and MiB that each cell of
    its node would hold of it; empty: there is one cell only."""

    vm: Name
    vcpus: Annotated[int, msgspec.Meta(ge=0, le=MAX_VCPUS)] = 0
    memory_mib: Annotated[int, msgspec.Meta(ge=0, le=MAX_MIB)] = 0
    vcpus_max: Annotated[int, msgspec.Meta(ge=0, le=MAX_VCPUS)] = 0
    memory_max_mib: Annotated[int, msgspec.Meta(ge=0, le=MAX_MIB)] = 0
    memory_by: MemoryBy | None = None
    vcpus_free: int = -1
    cells: tuple[tuple[int, int], ...] = ()


class Promised(Value):
    """The sums of a node's ledger with what was just promised: both limits, and what they are held to, in MiB."""

    reserved_mib: int
    charged_mib: int
    capacity_mib: int


class NoteResize(Command):
    """What the ledger of its node said to the memory that a running VM is to grow by."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""
    promised: Promised | None = None


class VmReshaped(Event):
    """At rest: it starts so the next time."""

    vm: VmId
    shape: Shape


class VmResizeRequested(Event):
    """A running VM is to have this size. Where it grows in memory, its node's ledger is asked first. vcpus_left: how many more
    vCPUs its node may promise after that; -1: not said."""

    vm: VmId
    node: NodeId
    generation: int
    vcpus: int
    memory_mib: int
    was_vcpus: int
    was_memory_mib: int
    priority: Priority
    allotment: Allotment
    vcpus_left: int = -1


class VmResizeOrdered(Event):
    """All that it takes is promised: its agent is ordered to give, or take, it. dimms_mib: the modules that it then has.
    promised: what its node's memory is promised to with it, where that became more."""

    vm: VmId
    node: NodeId
    generation: int
    dimms_mib: tuple[int, ...] = ()
    promised: Promised | None = None


class VmResized(Event):
    """Seen: it has this size now, and starts so the next time. sentence: why it is not what was asked for, where it is not.
    dimms_mib: the modules that are part of it."""

    vm: VmId
    node: NodeId
    generation: int
    vcpus: int
    memory_mib: int
    priority: Priority
    allotment: Allotment
    sentence: str = ""
    dimms_mib: tuple[int, ...] = ()


class VmResizeDenied(Event):
    """Its node's ledger does not hold it: it has the size it had."""

    vm: VmId
    node: NodeId
    generation: int
    sentence: str


class VmHardwareSeen(Event):
    """What its process and its guest say that it has, where that is news."""

    vm: VmId
    node: NodeId
    generation: int
    hardware: Hardware


class VmDrifted(Event):
    """Its process has these otherwise than its order says. Whole: what is not named any more is as ordered again."""

    vm: VmId
    node: NodeId
    generation: int
    drifts: tuple[Drift, ...]


class VmAgreed(Event):
    """All of it is as ordered again."""

    vm: VmId
    node: NodeId
    generation: int


GrowthCommand = ResizeVm | NoteResize
GrowthEvent = (
    VmReshaped
    | VmResizeRequested
    | VmResizeOrdered
    | VmResized
    | VmResizeDenied
    | VmHardwareSeen
    | VmDrifted
    | VmAgreed
)
