"""A guest that died inside its VM, as its agent tells of it. It counts as running: generation, memory and disks stay its own, and
it waits for a verdict of ha's upon which it is ended, or for somebody to reset it. Pure; a part of model.py."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from proto.compute import GoneCause, ReportVm, Seen, VmEvent, VmStopRequested
from proto.panics import EndVm, VmPanicked, VmPanicOver
from proto.vitals import Kind, VerdictReached
from services.compute.states import Running, Vm

VERDICTS = {GoneCause.PANIC: Kind.PANIC, GoneCause.HANG: Kind.HANG}
"""causes of an end that was ordered upon a verdict"""
CAUSES = {kind: cause for cause, kind in VERDICTS.items()}


def report(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    """Told once; another agent that finds it so knows less of it."""
    if fact.panic and not vm.panic:
        return [VmPanicked(vm=vm.id, node=vm.node, generation=vm.generation, sentence=fact.panic, screen=fact.screen)]
    if vm.panic and not fact.panic and fact.seen is Seen.RUNNING:
        return [VmPanicOver(vm=vm.id, node=vm.node, generation=vm.generation)]
    return ()


def evolve(vm: Running, event: VmPanicked | VmPanicOver) -> Running:
    return replace(vm, panic=event.sentence if type(event) is VmPanicked else "")


def react(event: VerdictReached) -> Sequence[EndVm]:
    """A guest that was found dead is ended by power-off; one whose process has gone needs no end."""
    if not event.treated or event.kind not in CAUSES:
        return ()
    return [EndVm(vm=event.vm, generation=event.generation, cause=CAUSES[event.kind])]


def end(command: EndVm, vm: Vm) -> Sequence[VmEvent]:
    """What is being stopped, moved or has gone on as another generation is left alone."""
    if not isinstance(vm, Running) or vm.generation != command.generation or command.cause not in VERDICTS:
        return ()
    return [VmStopRequested(vm=vm.id, node=vm.node, generation=vm.generation, deadline_s=0, cause=command.cause)]
