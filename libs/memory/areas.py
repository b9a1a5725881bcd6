"""The modules of a host, as one table: what stands in each one's area, and how its size follows from the host's memory. The
ledger sizes by it, the agent makes control groups by it, and asvctl shows it. Pure.

    min   promised to the module: the ledger takes it off before anything is promised to VMs
    high  above it the module is slowed down (3/4 of max)
    max   there it is stopped: the kernel kills in that area, and nowhere else

A control group of version 2 has all of them. One of version 1 has a soft limit (it stands for min) and a hard one (max).
"""

from __future__ import annotations

from libs.common.messages import Value
from proto.memory import Area

HOST = "host"
CONTROL_PLANE = "control-plane"
AGENT = "agent"
STORAGE = "storage"
NETWORK = "network"
SWAP = "swap"


class Module(Value):
    """min is floor_mib and 1/part of the host's memory, as page tables and caches grow with the machine; max is max_factor times
    that, and at least max_floor_mib. grouped: its processes stand in a control group."""

    name: str
    holds: str
    floor_mib: int
    part: int
    grouped: bool = True
    max_factor: int = 4
    max_floor_mib: int = 1024


MODULES = (
    Module(
        name=HOST, floor_mib=256, part=64, grouped=False,
        holds="the kernel and what the system runs; no group: it has what the others may not take",
    ),
    Module(
        name=CONTROL_PLANE, floor_mib=256, part=128, max_floor_mib=2048,
        holds="PostgreSQL, NATS, the services, the relay and the gateway, on the host that runs them",
    ),
    Module(name=AGENT, floor_mib=128, part=256, holds="the node's agent"),
    Module(name=STORAGE, floor_mib=64, part=128, holds="what makes and checks disks (qemu-img), with its caches"),
    Module(
        name=NETWORK, floor_mib=64, part=256,
        holds="nothing of its own yet: user networks are served inside each VM's process; kept for the kernel's buffers",
    ),
    Module(
        name=SWAP, floor_mib=0, part=0, grouped=False,
        holds="what zram itself may take of the memory at most; follows from the swap that is there",
    ),
)  # fmt: skip
BY_NAME = {module.name: module for module in MODULES}
SET_BY_HAND = tuple(m.name for m in MODULES if m.name != SWAP)
GROUPED = tuple(m.name for m in MODULES if m.grouped)


def sized(memory_mib: int, control_plane: bool = False, swap_memory_mib: int = 0) -> tuple[Area, ...]:
    """The modules' areas on a host of that size. control_plane: it runs on this host."""
    if memory_mib <= 0:
        return ()
    found = [_sized(m, memory_mib) for m in MODULES if m.name != SWAP and (control_plane or m.name != CONTROL_PLANE)]
    return with_swap(found, swap_memory_mib)


def with_swap(areas: list[Area] | tuple[Area, ...], swap_memory_mib: int) -> tuple[Area, ...]:
    """With what zram may take, which nobody sets by hand."""
    kept = tuple(area for area in areas if area.name != SWAP)
    return (*kept, Area(name=SWAP, min_mib=swap_memory_mib)) if swap_memory_mib else kept


def _sized(module: Module, memory_mib: int) -> Area:
    size_mib = module.floor_mib + memory_mib // module.part
    if not module.grouped:
        return Area(name=module.name, min_mib=size_mib, low_mib=size_mib)
    most_mib = max(module.max_floor_mib, module.max_factor * size_mib)
    return Area(
        name=module.name, min_mib=size_mib, low_mib=size_mib, high_mib=most_mib * 3 // 4, max_mib=most_mib
    )
