"""A VM's size is changed. Pure.

    at rest   VmReshaped: the next start has it
    running   VmResizeRequested ──(grows in memory: the ledger of its node)──▶ VmResizeOrdered ──(its agent)──▶ VmResized
                        └── denied ──▶ VmResizeDenied, all as before

The agent makes the VM as it is ordered and says what it has (Hardware). A guest that takes less, or gives back less, than it was
asked for ends the change all the same: with what it has, and why. From then on that is its size; the ledger promises it no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.compute import Refusal, ReportVm, Seen, VmEvent
from proto.growth import (
    NoteResize,
    Promised,
    ResizeVm,
    VmHardwareSeen,
    VmReshaped,
    VmResized,
    VmResizeDenied,
    VmResizeOrdered,
    VmResizeRequested,
)
from proto.hardware import Hardware
from proto.machine import MachineSpec, MemoryBy, Shape
from services.compute import dimms, space
from services.compute.allot import wishing
from services.compute.shape import check_allotment, check_size
from services.compute.states import Defined, Running, Stopped

UNIT_MIB = 2
"""memory of a running VM comes and goes in multiples of it, by virtio-mem"""
OF_SIZE = ("vcpus", "memory")


def resize(command: ResizeVm, vm: Defined) -> Sequence[VmEvent]:
    """Raises Refused: BAD_SHAPE, BUSY, NOT_RUNNING, NOT_STOPPED, CPU_SHORT."""
    if isinstance(vm, Stopped):
        return _reshape(command, vm)
    if not isinstance(vm, Running):
        raise Refused(Refusal.BUSY, f"{vm.id} is {vm.word}", "wait until it runs, or has stopped")
    return _grow(command, vm)


def _reshape(command: ResizeVm, vm: Stopped) -> Sequence[VmEvent]:
    """Head-room that was not asked for grows with what needs it."""
    old = vm.definition.shape
    vcpus, memory_mib = command.vcpus or old.vcpus, command.memory_mib or old.memory_mib
    shape = replace(
        old,
        vcpus=vcpus,
        memory_mib=memory_mib,
        vcpus_max=command.vcpus_max or max(old.vcpus_max, vcpus),
        memory_max_mib=command.memory_max_mib or max(old.memory_max_mib, memory_mib),
        memory_by=command.memory_by or old.memory_by,
    )
    check_size(shape)
    check_allotment(vm.definition.allotment, vcpus, memory_mib)
    return () if shape == old else [VmReshaped(vm=vm.id, shape=shape)]


def _grow(command: ResizeVm, vm: Running) -> Sequence[VmEvent]:
    spec = vm.spec
    has = spec.shape
    vcpus, memory_mib = command.vcpus or has.vcpus, command.memory_mib or has.memory_mib
    if command.vcpus_max not in (0, has.vcpus_max) or command.memory_max_mib not in (0, has.memory_max_mib):
        raise Refused(
            Refusal.NOT_STOPPED,
            f"{vm.id} was started with room for {has.vcpus_max} vCPUs and {has.memory_max_mib} MiB",
            "stop it, then change its maximum",
        )
    if command.memory_by not in (None, has.memory_by):
        said = f"{vm.id} was started to grow by {has.memory_by}"
        raise Refused(Refusal.NOT_STOPPED, said, "stop it, then change what it grows by")
    if (vcpus, memory_mib) == (has.vcpus, has.memory_mib) and vm.growth is None:
        return ()
    _check_steady(vm)
    _check_bounds(vm, vcpus, memory_mib)
    check_allotment(vm.definition.allotment, vcpus, memory_mib)
    _check_cpus(command, vm, vcpus)
    _check_cell(command, vm, vcpus, memory_mib)
    asked = VmResizeRequested(
        vm=vm.id,
        node=vm.node,
        generation=vm.generation,
        vcpus=vcpus,
        memory_mib=memory_mib,
        was_vcpus=has.vcpus,
        was_memory_mib=has.memory_mib,
        priority=vm.definition.priority,
        allotment=vm.definition.allotment,
        vcpus_left=command.vcpus_free - max(0, vcpus - has.vcpus) if command.vcpus_free >= 0 else -1,
    )
    if memory_mib > has.memory_mib:
        return [asked]
    return [asked, _ordered(vm, memory_mib)]


def _ordered(vm: Running, memory_mib: int, promised: Promised | None = None) -> VmResizeOrdered:
    dimms_mib = vm.spec.dimms_mib
    if vm.spec.shape.memory_by is MemoryBy.DIMM:
        dimms_mib = dimms.changed(dimms_mib, memory_mib - vm.spec.shape.memory_mib)
    return VmResizeOrdered(
        vm=vm.id, node=vm.node, generation=vm.generation, dimms_mib=dimms_mib, promised=promised
    )


def _check_steady(vm: Running) -> None:
    if vm.wish is not None:
        raise wishing(vm)
    if vm.growth is not None:
        wish = f"{vm.growth.vcpus} vCPUs and {vm.growth.memory_mib} MiB"
        raise Refused(Refusal.BUSY, f"{vm.id} is being brought to {wish}", "wait until that is done")
    space.check(vm)
    if vm.pause_wanted or vm.paused:
        raise Refused(Refusal.NOT_RUNNING, f"{vm.id} is paused: its guest takes and gives back nothing", "resume it first")
    if vm.spec.born is None:
        raise Refused(
            Refusal.NOT_STOPPED,
            f"{vm.id} was found running after a restore: how it was started is not known",
            "restart it once, then it can grow",
        )


def _check_bounds(vm: Running, vcpus: int, memory_mib: int) -> None:
    has, born = vm.spec.shape, vm.spec.born
    assert born is not None
    if vcpus > has.vcpus_max:
        raise Refused(
            Refusal.BAD_SHAPE,
            f"{vcpus} vCPUs asked for; {vm.id} was started with room for {has.vcpus_max}",
            f"at most {has.vcpus_max} while it runs; more needs a restart",
        )
    if memory_mib > has.memory_max_mib:
        raise Refused(
            Refusal.BAD_SHAPE,
            f"{memory_mib} MiB asked for; {vm.id} was started with room for {has.memory_max_mib} MiB",
            f"at most {has.memory_max_mib} MiB while it runs; more needs a restart",
        )
    if memory_mib < born.memory_mib:
        raise Refused(
            Refusal.NOT_STOPPED,
            f"{memory_mib} MiB asked for; {vm.id} was started with {born.memory_mib} MiB, and those stay while it runs",
            f"at least {born.memory_mib} MiB, or stop it first",
        )
    if has.memory_by is MemoryBy.DIMM:
        dimms.check(vm.id, has.memory_mib, vm.spec.dimms_mib, memory_mib)
    elif (memory_mib - born.memory_mib) % UNIT_MIB:
        below = memory_mib - (memory_mib - born.memory_mib) % UNIT_MIB
        raise Refused(
            Refusal.BAD_SHAPE,
            f"{memory_mib} MiB asked for; memory of a running VM comes in units of {UNIT_MIB} MiB on its {born.memory_mib} MiB",
            f"{below} MiB or {below + UNIT_MIB} MiB",
        )


def _check_cpus(command: ResizeVm, vm: Running, vcpus: int) -> None:
    more = vcpus - vm.spec.shape.vcpus
    if more > 0 and 0 <= command.vcpus_free < more:
        raise Refused(
            Refusal.CPU_SHORT,
            f"{more} more vCPUs asked for; {vm.node} may promise {command.vcpus_free} more",
            "fewer, or migrate it to a node with more, or raise the limit of over-allocation",
        )


def _check_cell(command: ResizeVm, vm: Running, vcpus: int, memory_mib: int) -> None:
    """What is to lie in one NUMA cell grows as far as a cell of its node holds it."""
    has = vm.spec.shape
    if not command.cells or (vcpus <= has.vcpus and memory_mib <= has.memory_mib):
        return
    if not any(vcpus <= cell[0] and memory_mib <= cell[1] for cell in command.cells):
        left = "; ".join(f"{cell[0]} vCPUs and {cell[1]} MiB" for cell in command.cells)
        raise Refused(
            Refusal.CELL_SHORT,
            f"{vcpus} vCPUs and {memory_mib} MiB asked for, all in one NUMA cell; the cells of {vm.node} would hold {left}",
            "fewer, or migrate it to a node with a roomier cell, or let it span cells (--no-one-cell)",
        )


def note(command: NoteResize, vm: Running) -> Sequence[VmEvent]:
    """The ledger's answer."""
    growth = vm.growth
    if growth is None or vm.growing or (command.node, command.generation) != (vm.node, vm.generation):
        return ()
    if command.granted:
        return [_ordered(vm, growth.memory_mib, command.promised)]
    return [VmResizeDenied(vm=vm.id, node=vm.node, generation=vm.generation, sentence=command.sentence)]


def report(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    """What the agent says that it has. A report on an older order says nothing of a change."""
    seen = fact.hardware
    if seen is None or fact.seen is not Seen.RUNNING:
        return ()
    events: list[VmEvent] = []
    if seen != vm.hardware:
        events.append(VmHardwareSeen(vm=vm.id, node=vm.node, generation=vm.generation, hardware=seen))
    if vm.growth is not None and vm.growing and fact.order_version >= vm.growth_version:
        events += _done(seen, vm, vm.growth)
    return events


def _done(seen: Hardware, vm: Running, wish: VmResizeRequested) -> Sequence[VmEvent]:
    said = "; ".join(misfit.sentence for misfit in seen.misfits if misfit.what in OF_SIZE)
    if not said and (seen.vcpus, seen.memory_mib) != (wish.vcpus, wish.memory_mib):
        return ()  # of a fit before this one
    memory_mib = seen.memory_mib if said else wish.memory_mib
    return [
        VmResized(
            vm=vm.id,
            node=vm.node,
            generation=vm.generation,
            vcpus=seen.vcpus,
            memory_mib=memory_mib,
            priority=vm.definition.priority,
            allotment=vm.definition.allotment,
            sentence=said,
            dimms_mib=seen.dimms_mib,
        )
    ]


def sized(spec: MachineSpec, vcpus: int, memory_mib: int, dimms_mib: tuple[int, ...]) -> MachineSpec:
    return replace(spec, shape=_sized(spec.shape, vcpus, memory_mib), dimms_mib=dimms_mib)


def _sized(shape: Shape, vcpus: int, memory_mib: int) -> Shape:
    return replace(shape, vcpus=vcpus, memory_mib=memory_mib)


def _growing(vm: Running, event: VmResizeOrdered) -> Running:
    if (wish := vm.growth) is None:
        return vm
    spec = sized(vm.spec, wish.vcpus, wish.memory_mib, event.dimms_mib)
    return replace(vm, spec=spec, growing=True, growth_version=vm.version + 1)


def _resized(vm: Running, event: VmResized) -> Running:
    definition = replace(vm.definition, shape=_sized(vm.definition.shape, event.vcpus, event.memory_mib))
    spec = sized(vm.spec, event.vcpus, event.memory_mib, event.dimms_mib)
    return replace(vm, definition=definition, spec=spec, growth=None, growing=False)


RUNNING: dict[type, Callable[[Any, Any], Running]] = {
    VmResizeRequested: lambda vm, event: replace(vm, growth=event, growing=False),
    VmResizeOrdered: _growing,
    VmResizeDenied: lambda vm, event: replace(vm, growth=None, growing=False),
    VmResized: _resized,
    VmHardwareSeen: lambda vm, event: replace(vm, hardware=event.hardware),
}
"""how it leads on: a part of evolving.py"""
