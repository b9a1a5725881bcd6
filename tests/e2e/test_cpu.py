"""CPU time among real guests that spin: by weight, by cap, and a critical VM that hardly waits. The driver alone, no cluster.

Figures are differences of counters over a window that ends when enough CPU time has passed. Other work on this machine can only
make a VM wait longer: so a guarantee is looked for in several windows, and one in which it holds is enough. A scheduler that does
not give it is far off in every one (equal shares: 1 to 1, no cap: 100 %, a fourth of a pCPU: ready 75 %).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from libs.common.messages import VmId
from proto.machine import Allotment, Priority
from proto.plan import CLASS_WEIGHT, CpuBeat, NodeCpus, PlanInputs, VmCpuBeat, VmNeeds
from services.compute.plan_policy import make
from services.node.cpu import Meter
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.guests import tiny_image

CPUS = tuple(sorted(os.sched_getaffinity(0)))
ONE = CPUS[-1:]
SPIN = ("sh", "-c", "while :; do :; done >/dev/null 2>&1 &")
RAN_S = 3.0
"""CPU time that a window holds, of all VMs together"""
EXEC_S_MAX = 60.0
WINDOWS_MAX = 10
WINDOW_S_MAX = 60.0
LOOK_S = 0.25


class Spinning:
    """One driver; each VM has one vCPU, and a program that spins on it."""

    def __init__(self, top: Path) -> None:
        self.rig = QemuRig(top, tiny_image())
        self.driver = self.rig.driver()

    async def begin(self, *vms: VmNeeds, threads: tuple[int, ...] = ()) -> None:
        """By the plan that compute would make for them; threads: where QEMU's other threads are kept to instead."""
        await self.driver.open()
        for vm in vms:
            spec = self.rig.spec(vm.vm)
            nics = tuple(replace(nic, mac=f"52:54:00:aa:cc:{len(vm.vm):02x}") for nic in spec.nics)
            await self.driver.start(replace(spec, nics=nics, priority=vm.priority))
        await asyncio.gather(*(guest_up(self.driver, vm.vm) for vm in vms))
        for plan in make(PlanInputs(cpus=NodeCpus(cells=(CPUS,)), vms=vms), {}):
            assert await self.driver.schedule(replace(plan, threads=threads or plan.threads)) == ()
        for vm in sorted(vms, key=lambda vm: CLASS_WEIGHT[vm.priority]):  # beside a critical one a best-effort one hardly answers
            assert (await self.driver.exec(vm.vm, SPIN, b"", EXEC_S_MAX)).exit_code == 0

    async def window(self) -> dict[str, VmCpuBeat]:
        """Until all VMs together have run for RAN_S."""
        loop, meter = asyncio.get_running_loop(), Meter("n1")
        before = await self.driver.cpu()
        begun = loop.time()
        meter.look(before, (0, 0), round(begun * 1e6))
        at_first = sum(t.ran_ns for vm in before for t in vm.vcpus)
        async with asyncio.timeout(WINDOW_S_MAX):
            while True:
                await asyncio.sleep(LOOK_S)
                now = await self.driver.cpu()
                if sum(t.ran_ns for vm in now for t in vm.vcpus) - at_first >= RAN_S * 1e9:
                    break
        beat = meter.look(now, (0, 0), round(loop.time() * 1e6))
        assert isinstance(beat, CpuBeat)
        return {vm.vm: vm for vm in beat.vms}

    async def holds(self, promise: Callable[[dict[str, VmCpuBeat]], bool]) -> Sequence[dict[str, VmCpuBeat]]:
        """The windows, the last of which keeps the promise; AssertionError with all of them where none does."""
        seen = []
        for _ in range(WINDOWS_MAX):
            seen.append(await self.window())
            if promise(seen[-1]):
                return seen
        raise AssertionError(f"in no window: {[list(window.values()) for window in seen]}")


@pytest.fixture
async def vms(tmp_path: Path) -> AsyncIterator[Spinning]:
    made = Spinning(tmp_path)
    try:
        yield made
        for machine in await made.driver.open():
            await made.driver.kill(machine.vm)
        await made.driver.close()
    finally:
        made.rig.end()


def vm(name: str, priority: Priority = Priority.NORMAL, **wish: object) -> VmNeeds:
    return VmNeeds(vm=VmId(name), generation=1, vcpus=1, priority=priority, allotment=Allotment(**wish))  # type: ignore[arg-type]


async def test_two_busy_vms_of_weight_4_to_1_on_one_pcpu_get_4_to_1(vms: Spinning) -> None:
    """All their threads, as all of them are in the group that is weighed."""
    await vms.begin(vm("light", cpu_weight=100, pins=ONE), vm("heavy", cpu_weight=400, pins=ONE), threads=ONE)

    def ratio(seen: dict[str, VmCpuBeat]) -> float:
        return seen["heavy"].used_pct / seen["light"].used_pct

    seen = await vms.holds(lambda seen: 3.6 <= ratio(seen) <= 4.4)
    print("4:1 on one pCPU:", [round(ratio(window), 2) for window in seen])


async def test_a_cap_of_25_percent_measures_25(vms: Spinning) -> None:
    await vms.begin(vm("capped", cpu_cap_pct=25))
    seen = await vms.holds(lambda seen: 22 <= seen["capped"].used_pct <= 28 and seen["capped"].throttled_pct > 0)
    print("capped at 25 %:", [w["capped"].used_pct for w in seen])
    assert seen[-1]["capped"].satisfaction_pct >= 88, "it has all that it is due"


async def test_a_critical_vm_hardly_waits_while_three_best_effort_vms_spin(vms: Spinning) -> None:
    """All four on one pCPU, the emulators' threads on the other."""
    spinners = [vm(f"be-{n}", Priority.BEST_EFFORT, pins=ONE) for n in range(3)]
    await vms.begin(vm("crit", Priority.CRITICAL, pins=ONE), *spinners)
    seen = await vms.holds(lambda seen: seen["crit"].ready_pct <= 5.0)
    print("ready of the critical VM:", [w["crit"].ready_pct for w in seen])
    assert all(vm.ready_pct > 50 for name, vm in seen[-1].items() if name != "crit"), "the others spin, and wait"
