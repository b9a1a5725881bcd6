"""Memory is bound to a NUMA cell on this machine's own kernel: written, read back, and seen by the process itself."""

# ruff: noqa: F811  (the fixtures of test_driver are imported by name)
from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.node.drivers import Driver
from services.node.drivers.qemu.driver import QemuDriver
from services.node.host import cgroup_cells, memory
from services.node.host.cgroup import Groups
from services.node.host.cgroup_cells import NotBound, bind, bound_to
from services.node.host.cgroup_tree import Limits
from services.node.host.text import parse_list
from services.node.host.threads import threads_of
from tests.contract.driver_rigs import Rig
from tests.contract.test_cgroup import child, groups  # noqa: F401  (the same fixtures)
from tests.contract.test_class_change import PLAN
from tests.contract.test_driver import driver, rig  # noqa: F401  (the same fixtures)

CELLS = tuple(cell.number for cell in memory.cells())
ABSENT = 1 + max(CELLS, default=0)


def allowed(pid: int) -> tuple[int, ...]:
    """The cells that the kernel lets a process take memory of."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return parse_list(next(line.split(":")[1] for line in lines if line.startswith("Mems_allowed_list")))


def test_a_process_is_bound_to_a_cell_and_let_go(groups: Groups, child: subprocess.Popen[bytes]) -> None:
    if groups.cells is None or not CELLS:
        pytest.skip("this machine offers no cpusets, or knows no NUMA")
    before, handle = allowed(child.pid), groups.join("web-1", child.pid, Limits())
    bound = bind(groups.cells, groups.name, handle, child.pid, CELLS[:1])
    try:
        assert bound_to(groups.cells, bound) == CELLS[:1] == allowed(child.pid)
        with pytest.raises(NotBound):
            bind(groups.cells, groups.name, bound, child.pid, (ABSENT,))
        assert allowed(child.pid) == CELLS[:1], "what was bound before is"
        assert bind(groups.cells, groups.name, bound, child.pid, ()) == bound
        assert allowed(child.pid) == before
    finally:
        child.kill()
        child.wait()
        assert groups.remove(bound)
        groups.remove("\n".join(map(str, groups.folders)))


async def test_a_vms_memory_is_bound_by_its_plan_and_the_next_agent_knows(rig: Rig, driver: Driver) -> None:
    await driver.start(rig.spec())
    bound = replace(PLAN, cells=CELLS[:1])
    faults = await driver.schedule(bound)
    if not isinstance(driver, QemuDriver):
        assert faults == ()
        return
    cpuset = driver._fleet.host.groups.cells
    if cpuset is None or not CELLS:
        assert [f.node_wide for f in faults if f.part == "memory-cells"] == [True]
        return
    assert faults == ()
    pid = (await driver.info("web-1")).pid
    handle = driver._fleet.find("web-1").record.cgroup
    assert bound_to(cpuset, handle) == CELLS[:1] == allowed(pid)
    assert {parse_list(Path(f"/proc/{pid}/task/{t}/status").read_text().split("Mems_allowed_list:")[1].split()[0]) for t in
            threads_of(pid)} == {CELLS[:1]}
    (one,) = await driver.cpu()
    assert one.vcpus[0].pcpus == PLAN.pcpus == tuple(sorted(os.sched_getaffinity(0))), "its pCPUs are the plan's all the same"
    absent = await driver.schedule(replace(PLAN, cells=(ABSENT,)))
    assert [f.part for f in absent] == ["memory-cells"] and "cannot be bound" in absent[0].sentence
    await driver.close()
    after = rig.driver()
    try:
        await after.open()
        assert isinstance(after, QemuDriver) and after._fleet.find("web-1").record.cgroup == handle
        assert await after.schedule(bound) == ()
        await after.kill("web-1")
        async with asyncio.timeout(20):
            while not after._fleet.host.groups.remove(handle):
                await asyncio.sleep(0.01)  # the kernel takes its time to take a dead process out
    finally:
        await after.close()


def test_this_machine_names_its_cells() -> None:
    found = cgroup_cells.tree()
    assert found is None or set(parse_list((found.folder / "cpuset.mems").read_text())) <= set(CELLS) or not CELLS
