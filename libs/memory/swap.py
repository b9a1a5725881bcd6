"""How much swap a node should have for VMs, and what it costs. Pure.

Only best-effort VMs are swapped, and never below their reservation. Over-allocated by `ratio`, a node's nominal memory exceeds
what there is by (ratio - 1) of it; that much swap is enough, and no more than what best-effort VMs can be without: their nominal
memory less their reservation, if they filled the node. Other classes' excess is for balloons.

Compressed in memory (zram), what is swapped out still takes memory: at most 1/ZRAM_PART of its size, for the kernel is told to
take no more and leaves in memory what does not go in. That part is an area of its own in the ledger, so that a promise to one VM
never rests on how well another's memory compresses.
"""

from __future__ import annotations

from libs.common.messages import Value
from libs.memory.promise import RESERVED_QUARTERS, ratio_pct
from proto.ladder import MemoryPolicy
from proto.machine import Priority

ZRAM_PART = 3
"""usual programs' memory compresses to about a third (lzo-rle, lz4); what does not is refused by the device and stays in memory"""
ZRAM_OF_HOST = 4
"""zram at most 1/4 of the memory: then it takes at most 1/12 itself"""
SWAP_MIB_MIN = 16
"""less is not worth a device"""


class Size(Value):
    """swap_mib: of the device; memory_mib: what of the host's memory it may take itself."""

    swap_mib: int
    memory_mib: int = 0


def wanted_mib(capacity_mib: int, policy: MemoryPolicy) -> int:
    """capacity_mib: physical less areas."""
    pct = ratio_pct(policy, Priority.BEST_EFFORT)
    excess_mib = capacity_mib * (pct - 100) // 100
    taken_quarters = 4 - RESERVED_QUARTERS[Priority.BEST_EFFORT]
    return min(excess_mib, capacity_mib * pct * taken_quarters // 400)


def zram(memory_mib: int, wanted: int) -> Size:
    """On a host, or a part of one, of that size."""
    size_mib = min(wanted, memory_mib // ZRAM_OF_HOST)
    return Size(swap_mib=size_mib, memory_mib=-(-size_mib // ZRAM_PART))


def disk(wanted: int) -> Size:
    return Size(swap_mib=wanted)
