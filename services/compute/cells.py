"""What is left in each NUMA cell of a node: vCPUs that may float there, and MiB. Pure.

A VM counts in the cell that its node's plan gives it; one that has no place in the plan yet, where the plan would put it next. Of
memory the lower of two numbers counts: what may be promised in that cell without what is promised to the VMs there, and what the
node has measured as available there. The first knows of VMs that have not touched their memory yet, the second of all else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from proto.compute import Capabilities
from services.compute.policy import CELLS_MAX

MEASURED_STEP_MIB = 64
"""What was measured counts in such steps, so that not every heartbeat changes a node's facts."""


class Planned(msgspec.Struct, frozen=True, gc=False):
    """Where the plan lets a VM's vCPUs run. exclusive: nobody else's."""

    pcpus: tuple[int, ...]
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What a VM takes of a cell."""

    vcpus: int
    memory_mib: int


@dataclass(slots=True)
class _Cell:
    pcpus: frozenset[int]
    free: int
    """pCPUs that nobody has for himself"""
    memory_mib: int
    vcpus: int = 0


def cells_mib(total_mib: int, sizes_mib: Sequence[int], count: int) -> list[int]:
    """A node's memory divided among its cells by their sizes; evenly where these are not known."""
    known = len(sizes_mib) == count and sum(sizes_mib) > 0
    sizes = list(sizes_mib) if known else [1] * count
    return [max(0, total_mib) * size // sum(sizes) for size in sizes]


def left(
    can: Capabilities,
    capacity_mib: int,
    vcpus_per_pcpu: float,
    vms: Mapping[str, Taken],
    planned: Mapping[str, Planned],
    measured_mib: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """By cell, those with most left first, CELLS_MAX at most; empty where there is one cell only, or several nodes share a host."""
    if len(can.cells) < 2 or can.share != 1:
        return ()
    sizes = cells_mib(capacity_mib, can.cells_mib, len(can.cells))
    cells = [_Cell(frozenset(p), len(p), mib) for p, mib in zip(can.cells, sizes, strict=True)]
    for name in sorted(vms.keys() & planned.keys()):
        _settle(cells, vms[name], planned[name])
    for name in sorted(vms.keys() - planned.keys()):
        _expect(cells, vms[name])
    measured = measured_mib if len(measured_mib) == len(cells) else [cell.memory_mib for cell in cells]
    found = [
        (_vcpus_left(cell, vcpus_per_pcpu), max(0, min(cell.memory_mib, mib)))
        for cell, mib in zip(cells, measured, strict=True)
        if cell.pcpus
    ]
    return tuple(sorted(found, key=lambda cell: (-cell[1], -cell[0]))[:CELLS_MAX])


def _vcpus_left(cell: _Cell, vcpus_per_pcpu: float) -> int:
    """No more than a pCPU for each vCPU of one VM, and no more than may be promised on these pCPUs."""
    return max(0, min(cell.free, int(cell.free * vcpus_per_pcpu) - cell.vcpus))


def _settle(cells: Iterable[_Cell], taken: Taken, place: Planned) -> None:
    """A VM whose plan spans several cells takes of each by its pCPUs there."""
    count = max(1, len(place.pcpus))
    for cell in cells:
        here = len(cell.pcpus.intersection(place.pcpus))
        if not here:
            continue
        cell.memory_mib -= taken.memory_mib * here // count
        if place.exclusive:
            cell.free -= here
        else:
            cell.vcpus += -(-taken.vcpus * here // count)


def _expect(cells: Sequence[_Cell], taken: Taken) -> None:
    """As plan_policy.py puts a VM that floats: in the emptiest cell that has a pCPU for each vCPU, and the memory."""
    roomy = [cell for cell in cells if cell.free >= max(1, taken.vcpus) and cell.memory_mib >= taken.memory_mib]
    if roomy:
        cell = min(roomy, key=lambda cell: (cell.vcpus + taken.vcpus) / cell.free)
        cell.vcpus, cell.memory_mib = cell.vcpus + taken.vcpus, cell.memory_mib - taken.memory_mib
        return
    everywhere = tuple(p for cell in cells for p in cell.pcpus)
    _settle(cells, taken, Planned(everywhere))
