"""The Driver contract on CPU time, kept by the simulated and by the real one: a plan is set and reads back, threads are counted."""

# ruff: noqa: F811  (the fixtures of test_driver are imported by name)
from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from libs.common.messages import VmId
from proto.machine import Allotment
from proto.plan import VmPlan
from services.node.cpu import Meter
from services.node.drivers import Driver, NoSuchVm, VmCpu
from services.node.drivers.qemu.driver import QemuDriver
from services.node.host.cgroup import Groups
from services.node.host.cgroup_cpu import get_share, lift, set_share
from services.node.host.cgroup_tree import Limits
from services.node.host.threads import affinity, threads_of
from tests.contract.driver_rigs import Rig
from tests.contract.test_driver import driver, rig  # noqa: F401  (the same fixtures)

CPUS = tuple(sorted(os.sched_getaffinity(0)))
PLAN = VmPlan(vm=VmId("web-1"), generation=1, weight=400, cap_pct=50, pcpus=CPUS[:1], threads=CPUS[-1:])


async def seen(driver: Driver) -> VmCpu:
    (one,) = await driver.cpu()
    return one


async def test_a_plan_is_set_reads_back_and_can_be_taken_away(rig: Rig, driver: Driver) -> None:
    assert await driver.cpu() == ()
    await driver.start(rig.spec())
    assert await driver.schedule(PLAN) == ()
    now = await seen(driver)
    assert (now.vm, now.generation, now.weight, now.cap_pct) == ("web-1", 1, 400, 50)
    assert [t.pcpus for t in now.vcpus] == [CPUS[:1]] and now.others_pcpus == CPUS[-1:] and now.others >= 1
    assert await driver.schedule(PLAN) == ()
    free = VmPlan(vm=VmId("web-1"), generation=1, weight=100, pcpus=CPUS, threads=CPUS)
    assert await driver.schedule(free) == ()
    now = await seen(driver)
    assert (now.weight, now.cap_pct, now.vcpus[0].pcpus, now.others_pcpus) == (100, 0, CPUS, CPUS)
    assert now.vcpus[0].thread in (await driver.info("web-1")).vcpu_threads


async def test_a_vm_is_born_with_its_weight_and_cap(rig: Rig, driver: Driver) -> None:
    await driver.start(replace(rig.spec(), allotment=Allotment(cpu_weight=300, cpu_cap_pct=40)))
    now = await seen(driver)
    assert (now.weight, now.cap_pct) == (300, 40)


async def test_a_plan_for_what_is_not_there_is_no_plan(rig: Rig, driver: Driver) -> None:
    with pytest.raises(NoSuchVm):
        await driver.schedule(PLAN)
    await driver.start(rig.spec())
    with pytest.raises(NoSuchVm):
        await driver.schedule(replace(PLAN, generation=2))
    assert (await seen(driver)).cap_pct == 0


async def test_the_next_agent_finds_what_was_set_and_counts_on(rig: Rig, driver: Driver) -> None:
    await driver.start(rig.spec())
    await driver.schedule(PLAN)
    before = await seen(driver)
    await driver.close()
    after = rig.driver()
    await after.open()
    now = await seen(after)
    assert (now.weight, now.cap_pct, now.vcpus[0].pcpus) == (400, 50, CPUS[:1])
    assert now.vcpus[0].ran_ns >= before.vcpus[0].ran_ns
    await after.close()


# --- the real one --------------------------------------------------------------------------------------------------------


async def test_a_vcpu_that_is_plugged_is_seen_and_planned_with_the_others(rig: Rig, driver: Driver) -> None:
    if not isinstance(driver, QemuDriver):
        pytest.skip("a simulated machine has the vCPUs it was started with")
    await driver.start(rig.spec())
    await driver.schedule(PLAN)
    assert len((await seen(driver)).vcpus) == 1
    running = driver._fleet.find("web-1")
    free = next(slot for slot in await running.do("query-hotpluggable-cpus") if "qom-path" not in slot)
    await running.do("device_add", {"driver": free["type"], "id": "cpu1", **free["props"]})
    now = await seen(driver)
    assert len(now.vcpus) == 2
    assert await driver.schedule(PLAN) == ()
    assert [t.pcpus for t in (await seen(driver)).vcpus] == [CPUS[:1]] * 2
    one_each = replace(PLAN, pcpus=CPUS, pins=(CPUS[:1], CPUS[-1:]))
    assert await driver.schedule(one_each) == ()
    assert [t.pcpus for t in (await seen(driver)).vcpus] == [CPUS[:1], CPUS[-1:]]


async def test_a_pcpu_that_is_not_there_is_a_fault_and_the_rest_holds(rig: Rig, driver: Driver) -> None:
    if not isinstance(driver, QemuDriver):
        pytest.skip("a simulated host takes every plan")
    await driver.start(rig.spec())
    faults = await driver.schedule(replace(PLAN, pcpus=(8190,)))
    assert [(f.vm, f.part) for f in faults] == [("web-1", "vcpu-pcpus")] and "8190" in faults[0].sentence
    now = await seen(driver)
    assert (now.weight, now.cap_pct, now.others_pcpus) == (400, 50, CPUS[-1:])


async def test_what_a_guest_uses_is_measured(rig: Rig, driver: Driver) -> None:
    """A guest that boots uses CPU; the meter's figures are those of the counters."""
    await driver.start(rig.spec())
    if not isinstance(driver, QemuDriver):
        driver.host.vms["web-1"].busy_pct = 80.0  # type: ignore[attr-defined]
    meter = Meter("n1")
    loop = asyncio.get_running_loop()
    meter.look(await driver.cpu(), (0, 0), round(loop.time() * 1e6))
    async with asyncio.timeout(20):
        while True:
            await asyncio.sleep(0.05)
            beat = meter.look(await driver.cpu(), (0, 0), round(loop.time() * 1e6))
            assert beat is not None
            (vm,) = beat.vms
            if vm.used_pct > 30:
                break
    assert vm.demand_pct >= vm.used_pct - 0.2 and 0 < vm.satisfaction_pct <= 100 and len(vm.vcpus) == 1


# --- the host's own words ------------------------------------------------------------------------------------------------


def test_both_versions_of_groups_are_written_and_read_alike(tmp_path: Path) -> None:
    one, two = tmp_path / "v1", tmp_path / "v2"
    one.mkdir()
    two.mkdir()
    for name, text in (("cpu.shares", "1024"), ("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000")):
        (one / name).write_text(text)
    for name, text in (("cpu.weight", "100"), ("cpu.max", "max 100000")):
        (two / name).write_text(text)
    (one / "cpu.stat").write_text("nr_periods 4\nnr_throttled 2\nthrottled_time 5000000\n")
    (two / "cpu.stat").write_text("usage_usec 9\nnr_throttled 2\nthrottled_usec 5000\n")
    for folder in (one, two):
        handle = f"{tmp_path}/other-tree\n{folder}"
        for weight, cap_pct in ((800, 0), (10, 25), (1, 1), (10_000, 250)):
            assert set_share(handle, weight, cap_pct) == {}
            share = get_share(handle)
            assert (share.weight, share.cap_pct, share.throttled_ns) == (weight, cap_pct, 5_000_000)
    assert (one / "cpu.shares").read_text() == "102400"
    assert (two / "cpu.max").read_text() == "250000 100000"


@pytest.mark.parametrize(("file", "unit"), [("cpu.shares", 1024), ("cpu.weight", 100)])
def test_groups_above_hold_the_weights_of_all_below(tmp_path: Path, file: str, unit: int) -> None:
    inside = (("a", 8 * unit, "11"), ("gone", 500 * unit, ""))
    for path, text, process in (
        ("", 7, ""), ("asv-n1", unit, ""), ("asv-n1/area", unit, ""), ("asv-n1/b", 3 * unit, "12"),
        *((f"asv-n1/area/{name}", weight, process) for name, weight, process in inside),
    ):  # fmt: skip
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / file).write_text(str(text))
        (tmp_path / path / "cgroup.procs").write_text(process)
    lift(str(tmp_path / "asv-n1/area/a"), "asv-n1")
    assert (tmp_path / "asv-n1/area" / file).read_text() == str(8 * unit)
    assert (tmp_path / "asv-n1" / file).read_text() == str(11 * unit)
    assert (tmp_path / file).read_text() == "7"
    (tmp_path / "asv-n1/b" / file).write_text(str(unit // 10))
    (tmp_path / "asv-n1/area/a" / file).write_text(str(unit // 10))
    lift(str(tmp_path / "asv-n1/b"), "asv-n1")
    assert (tmp_path / "asv-n1" / file).read_text() == str(8 * unit + unit // 10)


def test_without_a_group_it_is_said_and_nothing_is_read() -> None:
    assert set(set_share("", 100, 25)) == {"weight", "cap"} and set(set_share("", 100, 0)) == {"weight"}
    assert get_share("").weight == 0


def test_this_machine_takes_a_share() -> None:
    groups = Groups(name=f"asv-test-{os.getpid()}")
    handle = groups.make("share", Limits())
    try:
        if get_share(handle).weight == 0:
            pytest.skip("no control group for CPU time can be made here")
        assert set_share(handle, 10, 25) == {}
        assert (get_share(handle).weight, get_share(handle).cap_pct) == (10, 25)
    finally:
        groups.remove(handle)
        groups.remove("\n".join(map(str, groups.folders)))


def test_a_thread_that_has_ended_has_no_affinity() -> None:
    assert threads_of(0x3FFFFFFF) == () and affinity(0x3FFFFFFF) == ()
