"""The arithmetic of promises. What may be promised of a node lies below two limits with one right-hand side, `room`:

    sum over VMs of (reservation + overhead)          <= physical - areas - failover share     nothing promised is ever missing
    sum over classes of (nominal memory / its ratio)  <= physical - areas - failover share     over-allocation stays bounded

The second is `sum of nominal <= ratio x room` where all classes have one ratio, and stricter where they differ: critical VMs
always have ratio 1. Sums of a class are rounded up once, not VM by VM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from proto.ladder import MemoryPolicy
from proto.machine import Allotment, Priority
from proto.memory import Area, Promise

OVERHEAD_MIB = 96
OVERHEAD_FRACTION = 64
"""QEMU's own memory per VM: code, device buffers and translated code, and 1/64 of the guest's memory for its page tables."""

RESERVED_QUARTERS = {Priority.CRITICAL: 4, Priority.IMPORTANT: 3, Priority.NORMAL: 2, Priority.BEST_EFFORT: 1}
"""What is never taken back from a VM of that class where its definition does not say, in quarters of its nominal memory."""

PROMISES_KNOWN_MAX = 4096
"""that are made once: sizes and classes of VMs are few"""

VMS = "vms-"
"""Areas of VM classes are named so; what VMs hold is promised to each of them, not taken off before."""


def overhead_mib(nominal_mib: int) -> int:
    return OVERHEAD_MIB + nominal_mib // OVERHEAD_FRACTION


def promise_of(nominal_mib: int, priority: Priority, allotment: Allotment | None = None) -> Promise:
    """All of a critical VM's memory is its own, whatever its definition says."""
    return _promised(nominal_mib, priority, allotment.memory_reserved_mib if allotment is not None else 0)


@lru_cache(PROMISES_KNOWN_MAX)
def _promised(nominal_mib: int, priority: Priority, asked: int) -> Promise:
    by_class = -(-nominal_mib * RESERVED_QUARTERS[priority] // 4)
    own = nominal_mib if priority is Priority.CRITICAL else min(nominal_mib, asked or by_class)
    return Promise(
        nominal_mib=nominal_mib, reservation_mib=own, overhead_mib=overhead_mib(nominal_mib), priority=priority
    )


def guaranteed_mib(promise: Promise) -> int:
    """What of the host is never taken from this VM and its process."""
    return promise.reservation_mib + promise.overhead_mib


def whole_mib(promise: Promise) -> int:
    """The most it can ever take of the host."""
    return promise.nominal_mib + promise.overhead_mib


def ratio_pct(policy: MemoryPolicy, priority: Priority) -> int:
    """How much nominal memory may stand for 100 MiB of the host's. Critical: never more than there is."""
    if priority is Priority.CRITICAL:
        return 100
    return policy.class_ratio_pct.get(priority.value, policy.ratio_pct)


def charge_mib(nominal_mib: int, pct: int) -> int:
    """What nominal memory of one class counts against the room."""
    return -(-nominal_mib * 100 // pct)


def charged_mib(promises: Iterable[Promise], policy: MemoryPolicy) -> int:
    nominal: dict[Priority, int] = {}
    for promise in promises:
        nominal[promise.priority] = nominal.get(promise.priority, 0) + promise.nominal_mib
    return sum(charge_mib(mib, ratio_pct(policy, priority)) for priority, mib in nominal.items())


def taken_mib(areas: Iterable[Area]) -> int:
    """What the host's own modules keep; VMs have no part in it."""
    return sum(area.min_mib for area in areas if not area.name.startswith(VMS))


def class_max_mib(areas: Iterable[Area]) -> Mapping[Priority, int]:
    """VM classes that were given an area with a hard limit."""
    limits = {area.name: area.max_mib for area in areas if area.max_mib}
    return {p: limits[VMS + p.value] for p in Priority if VMS + p.value in limits}


def still_taken(target_mib: int, swap_mib: int, promise: Promise) -> tuple[int, int]:
    """What of a balloon target (-1: none) and of what may be swapped out stands under a new promise of the same VM: what was taken
    gives way to a larger reservation, swap to a better class, and all of it to a critical one."""
    if promise.priority is Priority.CRITICAL:
        return -1, 0
    target = max(target_mib, promise.reservation_mib) if target_mib >= 0 else -1
    target = target if target < promise.nominal_mib else -1
    has = target if target >= 0 else promise.nominal_mib
    best_effort = promise.priority is Priority.BEST_EFFORT
    return target, min(swap_mib, max(0, has - promise.reservation_mib)) if best_effort else 0
