"""A VM's class is changed while it runs: real processes in this machine's own control groups, and a real QEMU by its driver."""

# ruff: noqa: F811  (the fixtures of test_driver are imported by name)
from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from libs.common.messages import VmId
from proto.machine import Priority
from proto.memory import Area
from proto.plan import VmPlan
from services.node.drivers import Driver
from services.node.drivers.qemu.driver import QemuDriver
from services.node.host import areas, cgroup_class, cgroup_memory
from services.node.host.areas import area_of
from services.node.host.cgroup import Groups
from services.node.host.cgroup_class import Group
from services.node.host.cgroup_tree import Limits
from services.node.host.threads import threads_of
from tests.contract.driver_rigs import Rig
from tests.contract.test_driver import driver, rig  # noqa: F401  (the same fixtures)
from tests.contract.test_memory_areas import CLASSES, groups  # noqa: F401

CPUS = tuple(sorted(os.sched_getaffinity(0)))
PLAN = VmPlan(vm=VmId("web-1"), generation=1, weight=400, pcpus=CPUS, threads=CPUS)
HOLD = """
import sys, threading, time
threads = [threading.Thread(target=time.sleep, args=(600,), daemon=True) for _ in range(3)]
held = bytearray(b"x") * (24 << 20)
[thread.start() for thread in threads]
print("held", flush=True)
more = None
while line := sys.stdin.buffer.raw.read(1):
    more = bytearray(b"y") * (16 << 20)
    print("more", flush=True)
"""
"""holds 24 MiB with three more threads, and 16 MiB more when asked"""


def mib_of(handle: str) -> int:
    used = cgroup_memory.used(handle)
    assert used is not None
    return used.used_kib >> 10


def groups_of(pid: int, controller: str = "memory") -> str:
    """Where the kernel says that it stands."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return next(path for _, names, path in lines if controller in names.split(",") or not names)


def test_a_process_goes_over_with_all_its_threads_and_what_it_takes_from_then_on(groups: Groups) -> None:
    limits = [Area(name=name, max_mib=256) for name in CLASSES]
    assert areas.apply(groups, limits) == []
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            handle = groups.join("web-1", process.pid, Limits(memory_mib_max=128), area_of(Priority.NORMAL))
            assert cgroup_memory.set_vm(handle, 0, 0) == []
            assert process.stdout.readline() == b"held\n"
            before_mib = mib_of(handle)
            now, said = cgroup_class.change(groups, Group(handle), process.pid, area_of(Priority.CRITICAL), swapped=False)
            assert said == [] and cgroup_memory.area_name(now.handle) == "vms-critical"
            assert "/vms-critical/" in groups_of(process.pid) and len(threads_of(process.pid)) == 4
            for thread in threads_of(process.pid):
                assert "/vms-critical/" in Path(f"/proc/{process.pid}/task/{thread}/cgroup").read_text()
            if cgroup_class.charges_stay(groups):
                assert cgroup_class.former_kib(now.former) >> 10 >= before_mib - 2, "what it held is charged where it was"
                swappiness = Path(now.former[0]) / "memory.swappiness"
                assert not swappiness.exists() or swappiness.read_text() == "0\n", "and is kept from swap there"
            else:
                assert now.former == () and mib_of(now.handle) >= before_mib - 2
            taken_mib = mib_of(now.handle)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"more\n"
            assert mib_of(now.handle) >= taken_mib + 12
            kept = cgroup_memory.used(now.handle)
            assert kept is not None and kept.max_kib == 128 << 10
            again, said = cgroup_class.change(groups, now, process.pid, area_of(Priority.CRITICAL), swapped=False)
            assert (again, said) == (now, [])
            back, said = cgroup_class.change(groups, now, process.pid, area_of(Priority.NORMAL), swapped=False)
            assert said == [] and back.handle == handle and process.poll() is None, "nobody was killed on the way"
        finally:
            process.kill()
    assert groups.remove(back.all)


def test_a_process_that_has_ended_is_not_let_in(groups: Groups) -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        handle = groups.make("web-1", Limits(memory_mib_max=64), area_of(Priority.NORMAL))
        process.wait()
        with pytest.raises(cgroup_class.CannotChange, match="is not let into area vms-critical: No such process"):
            cgroup_class.change(groups, Group(handle), process.pid, area_of(Priority.CRITICAL), swapped=False)
    assert groups.remove(handle)
    area = groups.area("vms-critical")
    assert area is not None and not (area / "web-1").exists(), "nothing half-made is left"


async def test_a_vm_follows_its_class_and_the_next_agent_knows(rig: Rig, driver: Driver) -> None:
    """Both drivers take it; the real one is looked at."""
    spec = replace(rig.spec(), priority=Priority.BEST_EFFORT)
    await driver.start(spec)
    assert await driver.schedule(replace(PLAN, priority=Priority.BEST_EFFORT)) == ()
    if not isinstance(driver, QemuDriver):
        assert await driver.schedule(replace(PLAN, priority=Priority.CRITICAL)) == ()
        return
    group = (await driver.memory.use("web-1")).group
    if group is None:
        pytest.skip("no control group for memory can be made here")
    pid = (await driver.info("web-1")).pid
    assert group.area == "vms-best-effort" and group.former_kib == 0
    assert await driver.memory.limit("web-1", 0, 64, False) == []
    assert await driver.schedule(replace(PLAN, priority=Priority.CRITICAL)) == ()
    now = (await driver.memory.use("web-1")).group
    assert now is not None and (now.area, now.swap_max_kib, now.max_kib) == ("vms-critical", 0, group.max_kib)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "100"
    await driver.close()
    after = rig.driver()
    try:
        (found,) = await after.open()
        assert found.pid == pid and found.status == "running"
        again = (await after.memory.use("web-1")).group
        assert again is not None and again.area == "vms-critical"
        assert (again.former_kib > 0) == (now.former_kib > 0)
        assert isinstance(after, QemuDriver)
        handle = after._fleet.find("web-1").record.groups
        await after.kill("web-1")
        async with asyncio.timeout(20):
            while not after._fleet.host.groups.remove(handle):
                await asyncio.sleep(0.01)  # the kernel takes its time to take a dead process out
        assert [folder for folder in handle.splitlines() if Path(folder).exists()] == []
    finally:
        await after.close()
