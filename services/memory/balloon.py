"""Whose memory is taken first: min-funding revocation with a tax on idle memory (Waldspurger, OSDI 2002). Pure.

A VM pays for each MiB it holds with its shares. Idle memory costs it more, so that who holds much and uses little pays least:

    price = shares / (held x (active + k x (1 - active)))      k = 1 / (1 - tax) = 4 with a tax of 75 %

Memory is taken in small pieces, each from the VM whose price is then the lowest: down to what a VM is predicted to need; in need on
to what it uses now, and where that is not enough to its reservation, never below. In one decision a VM gives no more than a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from proto.machine import Priority

TAX = 0.75
IDLE = 1 / (1 - TAX)
WEIGHTS = {Priority.CRITICAL: 8, Priority.IMPORTANT: 4, Priority.NORMAL: 2, Priority.BEST_EFFORT: 1}
STEP_PART = 8
"""in one decision a VM gives up to an eighth of its nominal memory"""
STEP_MIB_MIN = 32
PIECE_MIB = 8


class Holder(NamedTuple):
    """A VM from which may be taken. held_mib: what it holds of the host now; used_mib: what it uses now;
    demand_mib: what it is predicted to need."""

    vm: str
    priority: Priority
    nominal_mib: int
    reservation_mib: int
    held_mib: int
    demand_mib: int
    used_mib: int


def price(holder: Holder, held_mib: int) -> float:
    shares = WEIGHTS[holder.priority] * holder.nominal_mib
    active = min(1.0, holder.used_mib / held_mib) if held_mib > 0 else 1.0
    return shares / (max(1, held_mib) * (active + IDLE * (1 - active)))


def step_mib(nominal_mib: int) -> int:
    return max(STEP_MIB_MIN, nominal_mib // STEP_PART)


def revoke(holders: Sequence[Holder], wanted_mib: int, in_need: bool) -> dict[str, int]:
    """What each VM is to hold afterwards, for those that give. in_need: down to what is used and to the reservation, not only to
    what is predicted."""
    held = {h.vm: h.held_mib for h in holders}
    left = wanted_mib
    for lowest in (_predicted, _used, _reserved) if in_need else (_predicted,):
        floors = {h.vm: max(lowest(h), h.reservation_mib, h.held_mib - step_mib(h.nominal_mib)) for h in holders}
        left = _pass(holders, held, floors, left, max(PIECE_MIB, wanted_mib // 256))
    return {h.vm: held[h.vm] for h in holders if held[h.vm] < h.held_mib}


def _predicted(holder: Holder) -> int:
    return holder.demand_mib


def _used(holder: Holder) -> int:
    return holder.used_mib


def _reserved(holder: Holder) -> int:
    return holder.reservation_mib


def _pass(holders: Sequence[Holder], held: dict[str, int], floors: dict[str, int], wanted_mib: int, piece: int) -> int:
    """Takes from `held` down to the floors; how much is still wanted."""
    heap = [(price(h, held[h.vm]), h.vm, h) for h in holders if held[h.vm] > floors[h.vm]]
    heapify(heap)
    while wanted_mib > 0 and heap:
        _, vm, holder = heap[0]
        given = min(piece, wanted_mib, held[vm] - floors[vm])
        held[vm] -= given
        wanted_mib -= given
        if held[vm] > floors[vm]:
            heapreplace(heap, (price(holder, held[vm]), vm, holder))
        else:
            heappop(heap)
    return wanted_mib
