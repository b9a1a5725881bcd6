"""A VM that stands still as a pool is full, as its agent tells of it. Pure; a part of model.py.

It counts as running: its generation, memory and disks stay its own, nothing restarts it, and its agent lets it go on by itself. A
pause is taken, and holds it back when there is room again; a reset and a stop are as ever (what its guest had not written is lost
by a reset, and by a power-off at the end of a stop's deadline, as they are anywhere). It is not moved, resized or given devices
meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.compute import Refusal, ReportVm, Seen, VmEvent
from proto.space import FullDisk, VmRanOutOfSpace, VmSpaceRegained, said
from services.compute.states import Running


def report(fact: ReportVm, vm: Running, *, resumed: bool = False) -> Sequence[VmEvent]:
    """resumed: somebody's pause ends with this report."""
    if fact.full and (resumed or _names(fact.full) != _names(vm.full)):
        return [VmRanOutOfSpace(vm=vm.id, node=vm.node, generation=vm.generation, disks=fact.full)]
    if vm.full and fact.seen is Seen.RUNNING:
        return [VmSpaceRegained(vm=vm.id, node=vm.node, generation=vm.generation)]
    return ()


def _names(full: Sequence[FullDisk]) -> set[str]:
    return {disk.disk for disk in full}


def evolve(vm: Running, event: VmRanOutOfSpace | VmSpaceRegained) -> Running:
    return replace(vm, full=event.disks if type(event) is VmRanOutOfSpace else ())


def check(vm: Running) -> None:
    """Raises Refused where it stands still."""
    if vm.full:
        raise Refused(Refusal.BUSY, f"{vm.id} stands still: {said(vm.full)}", REMEDY)


REMEDY = "free space in the pool, or add some: it goes on by itself then"
