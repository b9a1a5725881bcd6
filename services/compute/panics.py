"""A guest that died inside its VM, as its agent tells of it. It counts as running: generation, memory and disks stay its own, and
it waits for somebody to look at it and reset it. Pure; a part of model.py."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from proto.compute import ReportVm, Seen, VmEvent
from proto.panics import VmPanicked, VmPanicOver
from services.compute.states import Running


def report(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    """Told once; another agent that finds it so knows less of it."""
    if fact.panic and not vm.panic:
        return [VmPanicked(vm=vm.id, node=vm.node, generation=vm.generation, sentence=fact.panic)]
    if vm.panic and not fact.panic and fact.seen is Seen.RUNNING:
        return [VmPanicOver(vm=vm.id, node=vm.node, generation=vm.generation)]
    return ()


def evolve(vm: Running, event: VmPanicked | VmPanicOver) -> Running:
    return replace(vm, panic=event.sentence if isinstance(event, VmPanicked) else "")
