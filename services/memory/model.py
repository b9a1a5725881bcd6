"""One node's ledger (stream `ledger-NODE`). Pure.

    Unset ──set capacity──▶ Ledger ⟲ reserve (or deny), release, set capacity

A denial is an event, not a refusal: the asker is a reaction, and compute learns of the answer from the log. For the same reason
a reservation that is there already is not written again: its first MemoryReserved lies in the log, where compute cannot miss
it. A newer generation of a VM takes the place of the older on the same node; an older one changes nothing.
Capacity may fall below what is reserved (a node reports less memory): nothing is taken away, nothing new is promised.
A VM that was found running after a restore has its memory already: it is reserved, also beyond the capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

import msgspec
from msgspec.structs import replace

from libs.common.decider import Decider
from libs.common.messages import NodeId, Value, VmId
from proto.memory import (
    CapacitySet,
    LedgerCommand,
    LedgerEvent,
    MemoryDenied,
    MemoryOrderReported,
    MemoryReleased,
    MemoryReserved,
    ReleaseMemory,
    ReportMemory,
    ReserveMemory,
    SetCapacity,
)

FAULTS_MAX = 100
"""sentences kept of one report"""


class Reservation(Value):
    generation: int
    memory_mib: int


class State(Value, tag=True):
    pass


class Unset(State):
    """No report of this node yet: it holds nothing."""


class Ledger(State):
    capacity_mib: int
    reserved: dict[str, Reservation] = msgspec.field(default_factory=dict)
    faults: tuple[str, ...] = ()
    """what the node could not apply of its latest memory order"""

    @property
    def reserved_mib(self) -> int:
        return sum(r.memory_mib for r in self.reserved.values())


Account = Unset | Ledger


def decide(command: LedgerCommand, account: Account) -> Sequence[LedgerEvent]:
    match command:
        case SetCapacity():
            if isinstance(account, Ledger) and account.capacity_mib == command.capacity_mib:
                return ()
            return [CapacitySet(node=NodeId(command.node), capacity_mib=command.capacity_mib)]
        case ReserveMemory():
            return _reserve(command, account if isinstance(account, Ledger) else Ledger(capacity_mib=0))
        case ReleaseMemory():
            return _release(command, account) if isinstance(account, Ledger) else ()
        case ReportMemory():
            faults = command.faults[:FAULTS_MAX]
            if not isinstance(account, Ledger) or account.faults == faults:
                return ()
            return [MemoryOrderReported(node=command.node, order_version=command.order_version, faults=faults)]


def _reserve(command: ReserveMemory, ledger: Ledger) -> Sequence[LedgerEvent]:
    held = ledger.reserved.get(command.vm)
    if held is not None and held.generation >= command.generation:
        return ()
    reserved_mib = ledger.reserved_mib - (held.memory_mib if held else 0) + command.memory_mib
    if reserved_mib > ledger.capacity_mib and not command.running:
        return [_denied(command, ledger)]
    return [
        MemoryReserved(
            node=NodeId(command.node),
            vm=VmId(command.vm),
            generation=command.generation,
            memory_mib=command.memory_mib,
            reserved_mib=reserved_mib,
            capacity_mib=ledger.capacity_mib,
            running=command.running,
        )
    ]


def _release(command: ReleaseMemory, ledger: Ledger) -> Sequence[LedgerEvent]:
    held = ledger.reserved.get(command.vm)
    if held is None or held.generation > command.generation:
        return ()
    return [
        MemoryReleased(
            node=NodeId(command.node),
            vm=VmId(command.vm),
            generation=held.generation,
            memory_mib=held.memory_mib,
        )
    ]


def _denied(command: ReserveMemory, ledger: Ledger) -> MemoryDenied:
    return MemoryDenied(
        node=NodeId(command.node),
        vm=VmId(command.vm),
        generation=command.generation,
        memory_mib=command.memory_mib,
        reserved_mib=ledger.reserved_mib,
        capacity_mib=ledger.capacity_mib,
    )


def evolve(account: Account, event: LedgerEvent) -> Account:
    match event:
        case CapacitySet():
            reserved = account.reserved if isinstance(account, Ledger) else {}
            faults = account.faults if isinstance(account, Ledger) else ()
            return Ledger(capacity_mib=event.capacity_mib, reserved=reserved, faults=faults)
        case _ if isinstance(account, Unset):
            return account
        case MemoryReserved():
            taken = Reservation(generation=event.generation, memory_mib=event.memory_mib)
            return replace(account, reserved=account.reserved | {event.vm: taken})
        case MemoryReleased():
            return replace(account, reserved={vm: r for vm, r in account.reserved.items() if vm != event.vm})
        case MemoryOrderReported():
            return replace(account, faults=event.faults)
        case MemoryDenied():
            return account
        case _:
            assert_never(event)


LEDGER: Decider[LedgerCommand, Account, LedgerEvent] = Decider(
    kind="ledger",
    commands=get_args(LedgerCommand),
    events=get_args(LedgerEvent),
    state=Account,
    key=lambda command: command.node,
    initial=Unset(),
    decide=decide,
    evolve=evolve,
)
