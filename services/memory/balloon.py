"""Whose memory is taken first: min-funding revocation with a tax on idle memory (Waldspurger, OSDI 2002). Pure.

A VM pays for each MiB it holds with its shares. Idle memory costs it more, so that who holds much and uses little pays least:

    price = shares / (held x (active + k x (1 - active)))      k = 1 / (1 - tax) = 4 with a tax of 75 %

Memory is taken in small pieces, each from the VM whose price is then the lowest. It goes down to what a VM is predicted to need,
and in need on to its reservation, never below; and in one decision by no more than a VM's step.
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
    """A VM from which may be taken. held_mib: what it holds of the host now; demand_mib: what it is predicted to need."""

    vm: str
    priority: Priority
    nominal_mib: int
    reservation_mib: int
    held_mib: int
    demand_mib: int


def price(holder: Holder, held_mib: int) -> float:
    shares = WEIGHTS[holder.priority] * holder.nominal_mib
    active = min(1.0, holder.demand_mib / held_mib) if held_mib > 0 else 1.0
    return shares / (max(1, held_mib) * (active + IDLE * (1 - active)))


def step_mib(nominal_mib: int) -> int:
    return max(STEP_MIB_MIN, nominal_mib // STEP_PART)


def revoke(holders: Sequence[Holder], wanted_mib: int, in_need: bool) -> dict[str, int]:
    """What each VM is to hold afterwards, for those that give. in_need: down to the reservation, not only to the demand."""
    floors = {h.vm: _floor(h, in_need) for h in holders}
    held = {h.vm: h.held_mib for h in holders}
    heap = [(price(h, h.held_mib), h.vm, h) for h in holders if h.held_mib > floors[h.vm]]
    heapify(heap)
    piece = max(PIECE_MIB, wanted_mib // 256)
    left = wanted_mib
    while left > 0 and heap:
        _, vm, holder = heap[0]
        given = min(piece, left, held[vm] - floors[vm])
        held[vm] -= given
        left -= given
        if held[vm] > floors[vm]:
            heapreplace(heap, (price(holder, held[vm]), vm, holder))
        else:
            heappop(heap)
    return {h.vm: held[h.vm] for h in holders if held[h.vm] < h.held_mib}


def _floor(holder: Holder, in_need: bool) -> int:
    lowest = holder.reservation_mib if in_need else max(holder.reservation_mib, holder.demand_mib)
    return max(lowest, holder.held_mib - step_mib(holder.nominal_mib))
