"""Whether a ledger can hold a promise: every limit, with its numbers. Pure.

    failover restarts are held to   physical - areas
    migrations are held to          physical - areas - what a person asked to keep for failover
    all else is held to             physical - areas - failover share (the larger of that and what high availability keeps)

A guest that comes from another node takes nothing of the whole: what was kept for it elsewhere is kept for it here.

The forecast is a fourth, softer limit, for starts and migrations of VMs that are not critical: a node whose VMs are predicted to
need its memory takes no more of them, though the promises would allow it.
"""

from __future__ import annotations

from collections.abc import Iterable

from libs.memory.promise import charged_mib, class_max_mib, guaranteed_mib, ratio_pct, whole_mib
from proto.ladder import MemoryPolicy
from proto.machine import Priority
from proto.memory import Area, Broken, Limit, Promise, Purpose
from services.memory.states import Ledger

UNFORESEEN = (Purpose.FAILOVER, Purpose.ALLOTMENT)
"""not held to the forecast: a failover has the share; a VM that runs needs no more for being worth more"""

NAMES_MAX = 5
"""VMs named in one sentence"""


def room_mib(ledger: Ledger, purpose: Purpose) -> int:
    """The right-hand side of both limits."""
    kept = {Purpose.FAILOVER: 0, Purpose.MIGRATION: ledger.asked_mib}
    return ledger.capacity_mib - kept.get(purpose, ledger.share_mib)


def broken(ledger: Ledger, vm: str, promise: Promise, purpose: Purpose, forecast_mib: int = -1) -> tuple[Broken, ...]:
    """The limits that would not hold with this promise, in place of what the VM holds."""
    others = [r.promise for name, r in ledger.reserved.items() if name != vm]
    room = room_mib(ledger, purpose)
    found = list(over((*others, promise), ledger.policy, ledger.areas, room, promise))
    if not found and ledger.wanted is not None:
        found = list(over((*others, promise), ledger.wanted.policy, ledger.areas, room, promise))
    if forecast_mib >= 0 and promise.priority is not Priority.CRITICAL and purpose not in UNFORESEEN:
        asked = unknown_mib(promise, ledger.policy)
        if forecast_mib + asked > ledger.capacity_mib:
            found.append(
                Broken(
                    limit=Limit.FORECAST, promised_mib=forecast_mib, asked_mib=asked, limit_mib=ledger.capacity_mib
                )
            )
    return tuple(found)


def unknown_mib(promise: Promise, policy: MemoryPolicy) -> int:
    """What a VM is taken to need before anything was seen of it: what the tighter limit counts for it."""
    by_ratio = promise.nominal_mib * 100 // ratio_pct(policy, promise.priority)
    return max(by_ratio, guaranteed_mib(promise))


def over(
    promises: Iterable[Promise],
    policy: MemoryPolicy,
    areas: tuple[Area, ...],
    room: int,
    asked: Promise | None = None,
) -> Iterable[Broken]:
    """The limits that these promises break together. asked: one of them, the last, whose part is named apart."""
    held = list(promises)
    before = held[:-1] if asked is not None else held
    pairs = (
        (Limit.GUARANTEE, sum(map(guaranteed_mib, held)), sum(map(guaranteed_mib, before))),
        (Limit.RATIO, charged_mib(held, policy), charged_mib(before, policy)),
    )
    for limit, total, promised in pairs:
        if total > room:
            yield Broken(limit=limit, promised_mib=promised, asked_mib=total - promised, limit_mib=room)
    for priority, most in class_max_mib(areas).items():
        total = sum(guaranteed_mib(p) for p in held if p.priority is priority)
        promised = sum(guaranteed_mib(p) for p in before if p.priority is priority)
        if total > most and (asked is None or asked.priority is priority):
            yield Broken(limit=Limit.AREA, promised_mib=promised, asked_mib=total - promised, limit_mib=most)


_SAID = {
    Limit.GUARANTEE: "of reservations and QEMU's own",
    Limit.RATIO: "of nominal memory by its ratio",
    Limit.AREA: "in the area of its class",
    Limit.FORECAST: "predicted to be needed",
}


def said(node: str, broken: Iterable[Broken]) -> str:
    """Which limits broke, with the numbers."""
    parts = [f"{_sum(b)} of {b.limit_mib} MiB {_SAID[b.limit]}" for b in broken]
    return f"{node} does not hold it: {'; '.join(parts)}"


def _sum(b: Broken) -> str:
    return f"{b.promised_mib} + {b.asked_mib}" if b.asked_mib else str(b.promised_mib)


def holders(ledger: Ledger) -> str:
    """Who holds the memory, the largest first."""
    rows = sorted(ledger.reserved.items(), key=lambda row: (-whole_mib(row[1].promise), row[0]))
    named = [
        f"{vm} ({r.promise.priority.value}, {r.promise.reservation_mib} of {r.promise.nominal_mib} MiB reserved)"
        for vm, r in rows[:NAMES_MAX]
    ]
    if len(rows) > NAMES_MAX:
        named.append(f"{len(rows) - NAMES_MAX} more")
    return ", ".join(named)
