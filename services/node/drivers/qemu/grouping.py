"""Where a running VM stands among the control groups follows its plan, while it runs: in the area of its class, and in the cpuset
of its NUMA cells.

A fault leaves the VM where it stands, and is told until a later try (a new plan, or the next look at this one) succeeds.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from proto.machine import Priority
from proto.plan import PlanFault, VmPlan
from services.node.drivers.qemu.fleet import Fleet
from services.node.drivers.qemu.machine import RunningVm
from services.node.host import cgroup_cells, cgroup_class
from services.node.host.areas import SWAPPED, area_of, expendable

CLASS, CELLS = "memory-class", "memory-cells"


async def apply(running: RunningVm, fleet: Fleet, plan: VmPlan) -> tuple[PlanFault, ...]:
    """What could not be set; all else holds."""
    faults: list[PlanFault] = []
    if plan.priority is not None:
        said = await _change(running, fleet, plan.priority)
        if word := await asyncio.to_thread(expendable, running.process.pid, plan.priority):
            said.append(word)
        faults += [PlanFault(vm=plan.vm, part=CLASS, sentence=text) for text in said]
    try:
        await _bind(running, fleet, plan.cells)
    except cgroup_cells.NoCpuset as error:
        faults.append(PlanFault(vm=plan.vm, part=CELLS, sentence=str(error), node_wide=True))
    except cgroup_cells.NotBound as error:
        faults.append(PlanFault(vm=plan.vm, part=CELLS, sentence=str(error)))
    return tuple(faults)


async def _bind(running: RunningVm, fleet: Fleet, cells: tuple[int, ...]) -> None:
    """Raises NoCpuset, NotBound."""
    groups, pid = fleet.host.groups, running.process.pid
    if cells == () == cgroup_cells.bound_to(groups.cells, running.record.cgroup):
        return
    async with running.grouping:
        handle = await asyncio.to_thread(cgroup_cells.bind, groups.cells, groups.name, running.record.cgroup, pid, cells)
    if handle == running.record.cgroup:
        return
    async with fleet.lock(running.record.vm), running.grouping:
        if not running.process.ended.is_set() and handle not in running.record.cgroup:
            await _keep(running, cgroup=handle)


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
            await _keep(running, cgroup=group.handle, former=group.former)
        return said


async def _keep(running: RunningVm, **fields: Any) -> None:
    running.record = msgspec.structs.replace(running.record, **fields)
    await asyncio.to_thread(running.folder.save, running.record)
