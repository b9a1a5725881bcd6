"""How much of a node's memory may be promised, and what one VM costs beside its own."""

HOST_RESERVE_MIB = 512
HOST_RESERVE_FRACTION = 32
"""Kept for the host itself: a floor for kernel and agent, and 1/32 for page tables and caches, which grow with the machine."""

PROCESS_OVERHEAD_MIB = 96
PROCESS_OVERHEAD_FRACTION = 64
"""QEMU's own memory per VM: code, device buffers and translated code, and 1/64 of the guest's memory for its page tables."""


def capacity_mib(memory_mib: int, share: int) -> int:
    """What a node may promise; share: how many embedded nodes divide this host."""
    reserve = HOST_RESERVE_MIB + memory_mib // HOST_RESERVE_FRACTION
    return max(0, memory_mib - reserve) // max(1, share)


def footprint_mib(memory_mib: int) -> int:
    """What a VM of that guest memory takes of the host."""
    return memory_mib + PROCESS_OVERHEAD_MIB + memory_mib // PROCESS_OVERHEAD_FRACTION
