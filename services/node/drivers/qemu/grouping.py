"""Where a running VM stands among the control groups follows its plan: the area of its class, while it runs.

A fault leaves the VM where it stands, and is told until a later try (a new plan, or the next look at this one) succeeds.
"""

from __future__ import annotations

import asyncio

import msgspec

from proto.machine import Priority
from proto.plan import PlanFault, VmPlan
from services.node.drivers.qemu.fleet import Fleet
from services.node.drivers.qemu.machine import RunningVm
from services.node.host import cgroup_class
from services.node.host.areas import SWAPPED, area_of, expendable

CLASS = "memory-class"


async def apply(running: RunningVm, fleet: Fleet, plan: VmPlan) -> tuple[PlanFault, ...]:
    """What could not be set; all else holds."""
    if plan.priority is None:
        return ()
    said = await _change(running, fleet, plan.priority)
    if word := await asyncio.to_thread(expendable, running.process.pid, plan.priority):
        said.append(word)
    return tuple(PlanFault(vm=plan.vm, part=CLASS, sentence=text) for text in said)


async def _change(running: RunningVm, fleet: Fleet, priority: Priority) -> list[str]:
    """Its class's group. What others keep in its record at the same time is waited for."""
    area = area_of(priority)
    if not cgroup_class.differs(running.record.cgroup, area):
        return []
    async with fleet.lock(running.record.vm), running.grouping:
        record = running.record
        group = cgroup_class.Group(record.cgroup, record.former)
        swapped = area in SWAPPED
        try:
            group, said = await asyncio.to_thread(
                cgroup_class.change, fleet.host.groups, group, running.process.pid, area, swapped
            )
        except cgroup_class.CannotChange as error:
            return [str(error)]
        if not running.process.ended.is_set():
            running.record = msgspec.structs.replace(record, cgroup=group.handle, former=group.former)
            await asyncio.to_thread(running.folder.save, running.record)
        return said
