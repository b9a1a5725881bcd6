"""memory: what each node's memory is promised to (streams `ledger-NODE`). An admission checks one stream only."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Command, Event, Fact, Name, NodeId, Value, VmId


class Refusal(StrEnum):
    NO_LEDGER = "NO_LEDGER"


class Area(Value):
    """A part of a node's memory for one module (`host`, `control`, `storage`, `network`) or class of VMs (`vms-critical` …), with
    the limits of its cgroup. 0: no such limit. Version 1 of cgroups has no min: low and high are its soft, max its hard limit."""

    name: str
    min_mib: int = 0
    low_mib: int = 0
    high_mib: int = 0
    max_mib: int = 0


class SetCapacity(Command):
    """capacity_mib: what may be promised to VMs; overhead of the host itself is already taken off."""

    node: Name
    capacity_mib: int


class ReserveMemory(Command):
    """running: it takes the memory already (found after a restore), whether or not the ledger holds it."""

    node: Name
    vm: Name
    generation: int
    memory_mib: int
    running: bool = False


class ReleaseMemory(Command):
    """Give back what this generation, or an older one, of the VM holds here."""

    node: Name
    vm: Name
    generation: int


class ReportMemory(Fact):
    """What of the node's memory order could not be applied, one sentence for each part; none: all of it was."""

    order_version: int
    order_incarnation: int = 1
    faults: tuple[str, ...] = ()


class CapacitySet(Event):
    node: NodeId
    capacity_mib: int


class MemoryReserved(Event):
    node: NodeId
    vm: VmId
    generation: int
    memory_mib: int
    reserved_mib: int
    capacity_mib: int
    running: bool = False


class MemoryDenied(Event):
    """The ledger does not hold it: nothing was reserved."""

    node: NodeId
    vm: VmId
    generation: int
    memory_mib: int
    reserved_mib: int
    capacity_mib: int


class MemoryReleased(Event):
    node: NodeId
    vm: VmId
    generation: int
    memory_mib: int


class MemoryOrderReported(Event):
    """The node could not apply all of a memory order (faults), or could again (none)."""

    node: NodeId
    order_version: int
    faults: tuple[str, ...] = ()


LedgerCommand = SetCapacity | ReserveMemory | ReleaseMemory | ReportMemory
LedgerEvent = CapacitySet | MemoryReserved | MemoryDenied | MemoryReleased | MemoryOrderReported
