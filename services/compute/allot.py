"""A VM's allotment is changed, at rest or while it runs. Pure.

What changes the memory that a running VM is promised is asked of its node's ledger first, and comes to be whole or not at all:

    Running ──set──▶ wish ──ledger agrees──▶ VmAllotted (definition and plan)
                       └─────ledger denies──▶ VmAllotmentDenied, all as before
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from libs.memory.promise import promise_of
from proto.compute import (
    NoteAllotment,
    Refusal,
    SetAllotment,
    VmAllotmentDenied,
    VmAllotmentRequested,
    VmAllotted,
    VmEvent,
)
from proto.machine import Allotment, Priority
from services.compute.plan_limits import capacity_pct, said, short_pct, usable
from services.compute.shape import check_allotment
from services.compute.states import Defined, Running, Stopped, Vm


def allot(command: SetAllotment, vm: Defined) -> Sequence[VmEvent]:
    """All of it or nothing. Raises Refused: BAD_SHAPE, BUSY, CPU_SHORT."""
    before, shape = vm.definition, vm.definition.shape
    wish = _merged(command, before.allotment)
    priority = before.priority if command.priority is None else command.priority
    if (priority, wish) == (before.priority, before.allotment):
        return ()
    check_allotment(wish, shape.vcpus, shape.memory_mib)
    if isinstance(vm, Stopped):
        return [VmAllotted(vm=vm.id, priority=priority, allotment=wish)]
    _check_running(command, wish, before.allotment)
    _check_class(command, priority)
    if isinstance(vm, Running) and vm.growth is not None:
        raise Refused(Refusal.BUSY, f"{vm.id} is being resized", "wait until that is done")
    if isinstance(vm, Running) and vm.wish is not None:
        if (vm.wish.priority, vm.wish.allotment) == (priority, wish):
            return ()
        raise wishing(vm)
    size = shape.memory_mib
    if promise_of(size, priority, wish) == promise_of(size, before.priority, before.allotment):
        return [VmAllotted(vm=vm.id, priority=priority, allotment=wish)]
    if not isinstance(vm, Running):
        said = f"{vm.id} is {vm.word}: what memory it is promised is settled"
        raise Refused(Refusal.BUSY, said, "wait until it runs or is stopped, then change it")
    return [
        VmAllotmentRequested(
            vm=vm.id, node=vm.node, generation=vm.generation, memory_mib=size, priority=priority, allotment=wish
        )
    ]


def wishing(vm: Running) -> Refused:
    return Refused(Refusal.BUSY, f"the ledger of {vm.node} is being asked for what {vm.id} is to be worth", "try again in a moment")


def note(command: NoteAllotment, vm: Vm) -> Sequence[VmEvent]:
    """The ledger's answer. One to a run that is over changes nothing: what it held was given back with it."""
    if not isinstance(vm, Running) or vm.wish is None or (vm.node, vm.generation) != (command.node, command.generation):
        return ()
    if command.granted:
        return [VmAllotted(vm=vm.id, priority=vm.wish.priority, allotment=vm.wish.allotment)]
    return [VmAllotmentDenied(vm=vm.id, node=vm.node, generation=vm.generation, sentence=command.sentence)]


def _merged(command: SetAllotment, old: Allotment) -> Allotment:
    def new[T](wished: T | None, was: T) -> T:
        return was if wished is None else wished

    return Allotment(
        cpu_weight=new(command.cpu_weight, old.cpu_weight),
        cpu_cap_pct=new(command.cpu_cap_pct, old.cpu_cap_pct),
        cpu_reserved_pct=new(command.cpu_reserved_pct, old.cpu_reserved_pct),
        memory_reserved_mib=new(command.memory_reserved_mib, old.memory_reserved_mib),
        pins=new(command.pins, old.pins),
        together=new(command.together, old.together),
        apart=new(command.apart, old.apart),
        one_cell=new(command.one_cell, old.one_cell),
    )


def _check_class(command: SetAllotment, priority: Priority) -> None:
    """A class may allow fewer vCPUs on a node where a VM of it runs. What was broken before is not refused for it."""
    limit = command.limit
    if limit is None or not limit.vcpus > limit.vcpus_max < command.limit_before:
        return
    more = limit.vcpus - limit.vcpus_max
    raise Refused(
        Refusal.CPU_SHORT,
        f"with {command.vm} {priority}, {limit.vcpus_max} vCPUs would be allowed on the {limit.pcpus:g} pCPUs of {limit.node}"
        f" ({limit.ratio:g} per pCPU), and {limit.vcpus} are promised",
        f"migrate or stop VMs of {more} vCPUs there first, migrate {command.vm} to a node with room, or allow more"
        f" (`cluster set vcpus-per-pcpu.{priority}`)",
    )


def _check_running(command: SetAllotment, wish: Allotment, old: Allotment) -> None:
    """What CPUs its node has to have for it."""
    if command.cpus is None:
        return
    may = usable(command.cpus)
    if wrong := sorted(set(wish.pins) - set(may)):
        isolated = sorted(set(wrong) & set(command.cpus.isolated))
        kept = f" ({said(isolated)} kept apart by the kernel)" if isolated else ""
        raise Refused(
            Refusal.BAD_SHAPE, f"its node has no {said(wrong)} for VMs{kept}", f"pins among {said(may)}, or none"
        )
    if wish.cpu_reserved_pct <= old.cpu_reserved_pct:
        return
    if short := short_pct(command.cpus, command.others_reserved_pct, wish.cpu_reserved_pct):
        whole, others = capacity_pct(command.cpus), command.others_reserved_pct
        raise Refused(
            Refusal.CPU_SHORT,
            f"{wish.cpu_reserved_pct} % of a pCPU asked for; its node has {whole} %, of which {others} % are reserved by others",
            f"reserve {short} % less, or give back as much elsewhere on that node",
        )
