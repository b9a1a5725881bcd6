"""One node's ledger (stream `ledger-NODE`). Pure.

    Unset ──note host──▶ Ledger ⟲ reserve (or deny), resize, release · areas, share, policy (or refuse) · judge (the ladder)

A denial is an event, not a refusal: the asker is a reaction, and compute learns of the answer from the log. For the same reason
a reservation that is there already is not written again: its first MemoryReserved lies in the log, where compute cannot miss
it. A newer generation of a VM takes the place of the older on the same node; an older one changes nothing.
Capacity may fall below what is promised (a node reports less memory): nothing is taken away, nothing new is promised.
A VM that was found running after a restore has its memory already: it is entered, also beyond the capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

from msgspec.structs import replace

from libs.common.decider import Decider
from libs.common.messages import NodeId, VmId
from libs.memory.promise import whole_mib
from proto.ladder import JudgeMemory, LadderClimbed, LadderDescended, VmMoveWanted, VmPauseWanted
from proto.memory import (
    AdvancePolicy,
    CapacityExceeded,
    CapacitySet,
    KeepReserve,
    LedgerCommand,
    LedgerEvent,
    MemoryDenied,
    MemoryOrderReported,
    MemoryPolicyDropped,
    MemoryPolicyWanted,
    MemoryReleased,
    MemoryReserved,
    NoteHost,
    Promise,
    Purpose,
    ReleaseMemory,
    ReportMemory,
    ReserveMemory,
    ResizeMemory,
    SetAreas,
    SetFailoverShare,
    SetMemoryPolicy,
)
from services.memory import capacity, grips, ladder, policy_wish
from services.memory.admit import broken, room_mib, said
from services.memory.states import Account as Account
from services.memory.states import Ledger as Ledger
from services.memory.states import Reservation as Reservation
from services.memory.states import Unset as Unset

FAULTS_MAX = 100
"""sentences kept of one report"""


def decide(command: LedgerCommand, account: Account) -> Sequence[LedgerEvent]:
    match command:
        case NoteHost():
            return capacity.note_host(command, account)
        case SetAreas():
            return capacity.set_areas(command, account)
        case SetFailoverShare():
            return capacity.set_share(command, account)
        case KeepReserve():
            return capacity.keep_reserve(command, account)
        case SetMemoryPolicy():
            return policy_wish.set_policy(command, account)
        case ReserveMemory():
            return _reserve(command, account if isinstance(account, Ledger) else Ledger(capacity_mib=0))
        case ResizeMemory():
            return _resize(command, account if isinstance(account, Ledger) else Ledger(capacity_mib=0))
        case _ if isinstance(account, Unset):
            return ()
        case ReleaseMemory():
            return _release(command, account)
        case ReportMemory():
            faults = command.faults[:FAULTS_MAX]
            same = account.faults == faults
            version = command.order_version
            return () if same else [MemoryOrderReported(node=command.node, order_version=version, faults=faults)]
        case AdvancePolicy():
            return policy_wish.advance(command, account)
        case JudgeMemory():
            return ladder.judge(command, account)
        case _:
            assert_never(command)


def _reserve(command: ReserveMemory, ledger: Ledger) -> Sequence[LedgerEvent]:
    held = ledger.reserved.get(command.vm)
    if held is not None and held.generation >= command.generation:
        return ()
    return [_answer(command, ledger, command.purpose)]


def _resize(command: ResizeMemory, ledger: Ledger) -> Sequence[LedgerEvent]:
    """A promise that shrinks is never denied, also where the ledger is beyond its capacity. Who asks for another allotment
    waits for an answer, also where there is nothing to change."""
    held = ledger.reserved.get(command.vm)
    waits = command.purpose is Purpose.ALLOTMENT
    if held is None or held.generation != command.generation:
        return [_unheld(command, ledger)] if waits else ()
    if held.promise == command.promise and not waits:
        return ()
    return [_answer(command, ledger, command.purpose, held.promise)]


def _answer(
    command: ReserveMemory | ResizeMemory, ledger: Ledger, purpose: Purpose, had: Promise | None = None
) -> MemoryReserved | MemoryDenied:
    promise = command.promise
    broke = broken(ledger, command.vm, promise, purpose, command.forecast_mib)
    if purpose is Purpose.FOUND or (had is not None and _within(promise, had)):
        broke = ()
    taken = Reservation(generation=command.generation, promise=promise)
    after = ledger if broke else replace(ledger, reserved=ledger.reserved | {command.vm: taken})
    node, vm, most = NodeId(command.node), VmId(command.vm), whole_mib(promise)
    if broke:
        return MemoryDenied(
            node=node,
            vm=vm,
            generation=command.generation,
            memory_mib=most,
            reserved_mib=ledger.reserved_mib,
            capacity_mib=room_mib(ledger, purpose),
            broke=broke,
            sentence=said(command.node, broke),
            purpose=purpose,
        )
    return MemoryReserved(
        node=node,
        vm=vm,
        generation=command.generation,
        memory_mib=most,
        reserved_mib=after.reserved_mib,
        charged_mib=after.charged_mib,
        capacity_mib=room_mib(ledger, purpose),
        promise=promise,
        purpose=purpose,
    )


def _unheld(command: ResizeMemory, ledger: Ledger) -> MemoryDenied:
    return MemoryDenied(
        node=NodeId(command.node),
        vm=VmId(command.vm),
        generation=command.generation,
        memory_mib=whole_mib(command.promise),
        reserved_mib=ledger.reserved_mib,
        capacity_mib=room_mib(ledger, command.purpose),
        sentence=f"{command.node} holds nothing for generation {command.generation} of {command.vm}: that run is over",
        purpose=command.purpose,
    )


def _within(promise: Promise, had: Promise) -> bool:
    """It asks for no more than it had, of a class that counts no more."""
    smaller = promise.nominal_mib <= had.nominal_mib and promise.reservation_mib <= had.reservation_mib
    return smaller and promise.overhead_mib <= had.overhead_mib and promise.priority is had.priority


def _release(command: ReleaseMemory, ledger: Ledger) -> Sequence[LedgerEvent]:
    held = ledger.reserved.get(command.vm)
    if held is None or held.generation > command.generation:
        return ()
    after = _without(ledger, command.vm)
    return [
        MemoryReleased(
            node=NodeId(command.node),
            vm=VmId(command.vm),
            generation=held.generation,
            released_mib=whole_mib(held.promise),
            reserved_mib=after.reserved_mib,
            charged_mib=after.charged_mib,
        )
    ]


def _with(ledger: Ledger, event: MemoryReserved) -> Ledger:
    taken = Reservation(generation=event.generation, promise=event.promise)
    reserved = ledger.reserved.copy()
    reserved[event.vm] = taken
    if event.vm not in ledger.grips:
        return replace(ledger, reserved=reserved)
    return replace(ledger, reserved=reserved, grips=grips.after_promise(ledger.grips, event.vm, taken))


def _without(ledger: Ledger, vm: str) -> Ledger:
    reserved = ledger.reserved.copy()
    reserved.pop(vm, None)
    if vm not in ledger.grips:
        return replace(ledger, reserved=reserved)
    return replace(ledger, reserved=reserved, grips={name: g for name, g in ledger.grips.items() if name != vm})


def absorb(account: Account, event: LedgerEvent) -> Account:
    """What it holds is changed in place. (Where something was taken from the VM, that changes too.)"""
    if type(account) is Ledger:
        if type(event) is MemoryReserved and event.vm not in account.grips:
            account.reserved[event.vm] = Reservation(generation=event.generation, promise=event.promise)
            return account
        if type(event) is MemoryReleased and event.vm not in account.grips:
            account.reserved.pop(event.vm, None)
            return account
    return evolve(account, event)


def evolve(account: Account, event: LedgerEvent) -> Account:
    match event:
        case MemoryReserved():
            return _with(account if type(account) is Ledger else Ledger(capacity_mib=0), event)
        case MemoryReleased():
            return _without(account, event.vm) if type(account) is Ledger else account
        case CapacitySet():
            return capacity.apply(account, event)
        case _ if isinstance(account, Unset):
            return account
        case MemoryOrderReported():
            return replace(account, faults=event.faults)
        case LadderClimbed():
            return grips.climbed(account, event)
        case LadderDescended():
            return grips.descended(account, event)
        case MemoryPolicyWanted() | MemoryPolicyDropped() | VmMoveWanted():
            return policy_wish.wanted(account, event)
        case MemoryDenied() | CapacityExceeded() | VmPauseWanted():
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
    absorb=absorb,
)
