"""A VM's allotment is changed, at rest or while it runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from proto.compute import Refusal, SetAllotment, VmAllotted, VmEvent
from proto.machine import Allotment
from services.compute.plan_limits import capacity_pct, said, short_pct, usable
from services.compute.shape import check_allotment
from services.compute.states import Defined, Stopped


def allot(command: SetAllotment, vm: Defined) -> Sequence[VmEvent]:
    """All of it or nothing. Raises Refused: BAD_SHAPE, NOT_STOPPED, CPU_SHORT."""
    before, shape = vm.definition, vm.definition.shape
    wish = _merged(command, before.allotment)
    priority = before.priority if command.priority is None else command.priority
    if (priority, wish) == (before.priority, before.allotment):
        return ()
    check_allotment(wish, shape.vcpus, shape.memory_mib)
    if not isinstance(vm, Stopped):
        _check_running(command, wish, before.allotment)
    return [VmAllotted(vm=vm.id, priority=priority, allotment=wish)]


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


def _check_running(command: SetAllotment, wish: Allotment, old: Allotment) -> None:
    """What its node has to have for it. Memory is promised at the start, so it is changed at rest only."""
    if wish.memory_reserved_mib != old.memory_reserved_mib:
        raise Refused(
            Refusal.NOT_STOPPED,
            f"{command.vm} has {old.memory_reserved_mib} MiB reserved since its start; {wish.memory_reserved_mib} asked for",
            "stop it, then change its reserved memory",
        )
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
