"""A policy that what is promised does not fit yet: whom it lacks the room for is moved away, and then it holds. Pure.

    Ledger ──set, drain──▶ wanted ⟲ VMs wished away (AT_ONCE_MAX at once, ATTEMPTS_MAX each) ──all fits──▶ CapacitySet
                             └── who has to go cannot ──▶ MemoryPolicyDropped: the old policy stands, as it did all the while

Until then new promises are held to both policies: nobody takes the room that others left. A wish to move is an ordinary
VmMoveWanted; compute places and migrates.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from proto.ladder import MemoryPolicy, VmMoveWanted
from proto.machine import Priority
from proto.memory import (
    AdvancePolicy,
    CapacityCause,
    LedgerEvent,
    MemoryPolicyDropped,
    MemoryPolicyWanted,
    Purpose,
    Refusal,
    SetMemoryPolicy,
)  # fmt: skip
from services.memory import capacity
from services.memory.admit import NAMES_MAX, over, room_mib
from services.memory.relief import relief
from services.memory.states import Account, Ledger, PolicyWish

AT_ONCE_MAX = 2
"""VMs on their way at once"""
ATTEMPTS_MAX = 3
AGAIN_US = 60_000_000
"""a VM that is still here by then is wished away again"""


def going(ledger: Ledger, policy: MemoryPolicy) -> tuple[tuple[str, ...], bool]:
    """Who has to go before that policy holds, and whether it does then."""
    promises = {vm: r.promise for vm, r in ledger.reserved.items()}
    return relief(promises, policy, ledger.areas, room_mib(ledger, Purpose.MIGRATION))


def set_policy(command: SetMemoryPolicy, account: Account) -> Sequence[LedgerEvent]:
    ledger = capacity.known(command.node, account)
    known = [p.value for p in Priority if p is not Priority.CRITICAL]
    for name in command.policy.class_ratio_pct:
        if name == Priority.CRITICAL.value:
            why = "critical VMs are never promised more than there is"
            raise Refused(Refusal.BAD_POLICY, why, f"give a ratio for one of {', '.join(known)}")
        if name not in known:
            raise Refused(Refusal.BAD_POLICY, f"there is no class {name[:80]!r}", f"one of {', '.join(known)}")
    after = replace(ledger, policy=command.policy)
    try:
        events = capacity.changed(command.node, ledger, after, CapacityCause.POLICY)
    except Refused as refused:
        vms, enough = going(ledger, command.policy)
        if not command.drain or not enough:
            raise _whom(refused, vms, enough) from None
        return _want(command.node, ledger, command.policy, vms)
    if not events and ledger.wanted is not None:
        said = "the policy that holds already was asked for instead"
        return [MemoryPolicyDropped(node=NodeId(command.node), sentence=said)]
    return events


def _whom(refused: Refused, vms: tuple[str, ...], enough: bool) -> Refused:
    """With whom it is about, and what would help."""
    named = ", ".join(vms[:NAMES_MAX]) + (f" and {len(vms) - NAMES_MAX} more" if len(vms) > NAMES_MAX else "")
    if not enough:
        return Refused(refused.reason, f"{refused.sentence}; critical VMs alone are too many for it", refused.remedy)
    return Refused(refused.reason, refused.sentence, f"move or stop {named} first (--drain shows where to), or {refused.remedy}")


def _want(node: str, ledger: Ledger, policy: MemoryPolicy, vms: tuple[str, ...]) -> Sequence[LedgerEvent]:
    if ledger.wanted is not None and ledger.wanted.policy == policy:
        return ()
    return [MemoryPolicyWanted(node=NodeId(node), policy=policy, vms=tuple(VmId(vm) for vm in vms))]


def advance(command: AdvancePolicy, ledger: Ledger) -> Sequence[LedgerEvent]:
    wish, now_us = ledger.wanted, command.now_us
    if wish is None:
        return ()
    promises = [r.promise for r in ledger.reserved.values()]
    if not any(over(promises, wish.policy, ledger.areas, room_mib(ledger, Purpose.START))):
        return [capacity.set_to(command.node, replace(ledger, policy=wish.policy), CapacityCause.POLICY)]
    vms, enough = going(ledger, wish.policy)
    node = NodeId(command.node)
    if not enough:
        return [MemoryPolicyDropped(node=node, sentence="what is left are critical VMs, and they alone do not fit")]
    coming = [vm for vm in ledger.reserved if vm in wish.asked and now_us - wish.asked[vm][1] < AGAIN_US]
    free = [vm for vm in vms if vm not in coming and wish.attempts(vm) < ATTEMPTS_MAX]
    if not free and not coming:
        left = ", ".join(vms)
        said = f"{left} would have to go and did not in {ATTEMPTS_MAX} attempts (`why vm/{vms[0]}` says why)"
        return [MemoryPolicyDropped(node=node, sentence=said)]
    return [_wish(command, ledger, vm, wish.policy) for vm in free[: max(0, AT_ONCE_MAX - len(coming))]]


def _wish(command: AdvancePolicy, ledger: Ledger, vm: str, policy: MemoryPolicy) -> VmMoveWanted:
    held = ledger.reserved[vm]
    said = f"{command.node} is to have a memory policy of {policy.ratio_pct} %, and does not hold all its VMs by it"
    return VmMoveWanted(
        node=NodeId(command.node), vm=VmId(vm), generation=held.generation, priority=held.promise.priority,
        memory_mib=held.promise.nominal_mib, short_mib=0, sentence=said, at_us=command.now_us,
    )  # fmt: skip


def wanted(ledger: Ledger, event: MemoryPolicyWanted | MemoryPolicyDropped | VmMoveWanted) -> Ledger:
    match event:
        case MemoryPolicyWanted():
            return replace(ledger, wanted=PolicyWish(policy=event.policy))
        case MemoryPolicyDropped():
            return replace(ledger, wanted=None)
        case VmMoveWanted() if ledger.wanted is not None and event.at_us:
            wish = ledger.wanted
            asked = wish.asked | {event.vm: (wish.attempts(event.vm) + 1, event.at_us)}
            return replace(ledger, wanted=replace(wish, asked=asked))
        case _:
            return ledger
