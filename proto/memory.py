"""memory: what each node's memory is promised to (streams `ledger-NODE`). An admission checks one stream only."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Command, Event, Name, NodeId, VmId


class Refusal(StrEnum):
    NO_LEDGER = "NO_LEDGER"


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


LedgerCommand = SetCapacity | ReserveMemory | ReleaseMemory
LedgerEvent = CapacitySet | MemoryReserved | MemoryDenied | MemoryReleased
