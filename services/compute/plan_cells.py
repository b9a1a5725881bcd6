"""Whose memory is bound to the cell that its vCPUs keep to. Pure.

A binding by the kernel (cpuset) is strict: where the cell is full, the kernel kills in that cell, though others have room. So it is
made only where that cannot come to be: all VMs that may take memory of the cell, at the most that each can ever take, are no more
than what there is for VMs in it. Elsewhere the kernel's own way holds: memory is taken where the vCPU runs, which is in the cell,
and from another one when it is full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from proto.plan import VmNeeds


class Binding(msgspec.Struct, frozen=True):
    """cells: by the kernel's numbers; none: not bound. words: for the plan's sentence; fault: where one cell was wished for."""

    cells: tuple[int, ...] = ()
    words: str = ""
    fault: str = ""


NOT_BOUND = Binding()


def bindings(
    vms: Sequence[VmNeeds], homes: Mapping[str, int | None], cells_mib: Sequence[int], numbers: Sequence[int]
) -> dict[str, Binding]:
    """By VM. homes: the cell (its place in cells_mib) that each keeps to; None: it spans some. Nothing where the host has one cell,
    or it is not known what is in each, or what each VM can take."""
    if len(cells_mib) < 2 or len(numbers) != len(cells_mib) or not all(vm.whole_mib for vm in vms):
        return {}
    wide_mib = sum(vm.whole_mib for vm in vms if homes[vm.vm] is None)
    most_mib = [wide_mib] * len(cells_mib)
    for vm in vms:
        if (home := homes[vm.vm]) is not None:
            most_mib[home] += vm.whole_mib
    return {vm.vm: _binding(vm, most_mib[n], cells_mib[n], numbers[n]) for vm in vms if (n := homes[vm.vm]) is not None}


def _binding(vm: VmNeeds, most_mib: int, size_mib: int, number: int) -> Binding:
    if most_mib <= size_mib:
        return Binding((number,), f"; its memory is bound to cell {number}")
    why = f"VMs that may take of it can come to {most_mib} MiB, and {size_mib} are for VMs there"
    words = f"; its memory is taken from cell {number} first, and not bound to it: {why}"
    return Binding(words=words, fault=f"its memory cannot be bound to cell {number}: {why}" if vm.allotment.one_cell else "")
