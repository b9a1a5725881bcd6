"""Memory of real guests: taken back by the balloon as ordered, and kept apart in areas, so that one gone mad dies alone."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from libs.common.clock import SystemClock
from libs.common.messages import Fact, NodeId, Reply
from proto.compute import GoneCause
from proto.machine import Disk, DiskFormat, MachineSpec, Priority
from proto.memory import Area, ReportMemory
from proto.node import MemoryTarget, OrderMemory
from services.node import memory_plan
from services.node.drivers.qemu.driver import QemuDriver
from services.node.host import cgroup_memory
from services.node.host.areas import EXPENDABLE
from services.node.host.cgroup import Groups
from services.node.memory_keeper import MemoryKeeper
from tests.contract.driver_rigs import QemuRig, guest_up, told
from tests.guests import tiny_image

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    made = QemuRig(tmp_path, tiny_image())
    yield made
    made.end()


@pytest.fixture
def groups() -> Groups:
    """A node's groups that no other test shares."""
    return Groups(name=f"asv-memory-{os.getpid()}")


@pytest.fixture
async def driver(rig: QemuRig, groups: Groups) -> AsyncIterator[QemuDriver]:
    made = QemuDriver("n1", rig.top / "n1", {"default": rig.pool}, cache=rig.top.parent / "probes", groups=groups)
    await made.open()
    yield made
    await made.close()


class Memory:
    """A memory service that hears reports; `keeper` runs against the driver until the block ends."""

    def __init__(self, driver: QemuDriver) -> None:
        self.reports: list[ReportMemory] = []
        self.keeper = MemoryKeeper(NodeId("n1"), driver, SystemClock(), self._hear)
        self.version = 0

    async def _hear(self, fact: Fact) -> Reply:
        assert isinstance(fact, ReportMemory)
        self.reports.append(fact)
        return Reply(status="accepted")

    def order(self, *targets: MemoryTarget, areas: tuple[Area, ...] = ()) -> None:
        self.version += 1
        order = OrderMemory(node="n1", version=self.version, targets=targets, limits=areas)
        assert self.keeper.on_order(order, 1).accepted

    async def __aenter__(self) -> Memory:
        self._task = asyncio.create_task(self.keeper.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def sized(rig: QemuRig, vm: str, mib: int, priority: Priority = Priority.NORMAL) -> MachineSpec:
    """With a blank second disk of 1 GiB."""
    spec = rig.spec(vm)
    blank = Disk(
        name="blank", pool="default", file=f"{vm}-blank.qcow2", size_mib=1024, format=DiskFormat.QCOW2,
        serial=f"{vm}-blank", slot=1,
    )  # fmt: skip
    shape = msgspec.structs.replace(spec.shape, memory_mib=mib, memory_max_mib=mib)
    return msgspec.structs.replace(spec, shape=shape, disks=(*spec.disks, blank), nics=(), priority=priority)


async def until(seen: Callable[[], object], within_s: float) -> None:
    """Looks again as often as the loop comes round."""
    async with asyncio.timeout(within_s):
        while not seen():
            await asyncio.sleep(0.02)


GIVES_S_MAX = 60.0
"""how long a guest may take to give, however busy the machine is; how long it does take: tests/bench/balloon.py"""


async def resident_mib(driver: QemuDriver, vm: str) -> int:
    return next(f.resident_mib for f in await driver.memory.figures() if f.vm == vm)


async def fill_cache(driver: QemuDriver, vm: str) -> None:
    """The guest reads its blank disk: its memory is full of what it could read again."""
    script = "dd if=/dev/vdb of=/dev/null bs=1M 2>&1"
    result = await driver.exec(vm, ("/bin/sh", "-c", script), b"", 60.0)
    assert result.exit_code == 0, result


async def test_a_balloon_gives_the_host_its_memory_back(rig: QemuRig, driver: QemuDriver) -> None:
    await driver.start(sized(rig, "big", 1024))
    await guest_up(driver, "big")
    await fill_cache(driver, "big")
    before = await resident_mib(driver, "big")
    assert before >= 900, "the guest has touched its memory"
    async with Memory(driver) as memory:
        memory.order(MemoryTarget(vm="big", generation=1, target_mib=256))
        async with asyncio.timeout(GIVES_S_MAX):
            while before - await resident_mib(driver, "big") < 500:
                await asyncio.sleep(0.02)
        await until(lambda: memory.keeper.plan.settled, GIVES_S_MAX)
        balloon = (await driver.memory.balloons())["big"]
        assert (balloon.nominal_mib, balloon.actual_mib) == (1024, 256), "and not a MiB below"
        use = await driver.memory.use("big")
        assert use.balloon_mib == 256 and use.guest is not None
        assert (await driver.exec("big", ("true",), b"", 10.0)).exit_code == 0
        memory.order()
        await until(lambda: memory.keeper.plan.settled, GIVES_S_MAX)
        assert (await driver.memory.balloons())["big"].actual_mib == 1024, "without a target it has all again"
        assert memory.reports == [], "nothing went wrong, so nothing is told"


async def test_a_guest_that_cannot_give_is_told_of(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest of which nothing runs yet has no balloon driver: what was ordered is late, and that is said. Late: after two seconds,
    here."""
    monkeypatch.setattr(memory_plan, "BALLOON_US", 2_000_000)
    monkeypatch.setattr(memory_plan, "AGAIN_US", 2_000_000)
    await driver.start(sized(rig, "early", 256))
    await driver.pause("early")
    async with Memory(driver) as memory:
        memory.order(MemoryTarget(vm="early", generation=1, target_mib=128))
        await until(lambda: memory.reports, 20)
        assert "early: its guest has 256 MiB" in memory.reports[0].faults[0]
        await driver.resume("early")
        # Once its driver runs it gives, and that is said too. A slow one is late again on the way, which is said as well.
        await until(lambda: memory.reports[-1].faults == (), 60)


async def test_pages_are_merged_only_where_it_is_ordered(rig: QemuRig, driver: QemuDriver) -> None:
    ksm = Path("/sys/kernel/mm/ksm/run")
    if not os.access(ksm, os.W_OK):
        pytest.skip("only root may switch KSM on")
    before = ksm.read_text()
    await driver.start(sized(rig, "one", 160))
    pid = (await driver.info("one")).pid

    def mergeable() -> bool:
        return any(
            "mg" in line.split() for line in Path(f"/proc/{pid}/smaps").read_text().splitlines() if "VmFlags" in line
        )

    assert not mergeable()
    async with Memory(driver) as memory:
        memory.order(MemoryTarget(vm="one", generation=1, target_mib=160, merge=True))
        await until(mergeable, 5)
        assert ksm.read_text().strip() == "1"
        memory.order()
        await until(lambda: not mergeable(), 5)
    ksm.write_text(before)


async def test_a_guest_that_eats_its_area_dies_alone(rig: QemuRig, driver: QemuDriver, groups: Groups) -> None:
    if groups.area("") is None:
        pytest.skip("this process may not make control groups for memory here")
    changes = driver.changes()
    area = Area(name="vms-best-effort", max_mib=900)
    async with Memory(driver) as memory:
        memory.order(areas=(Area(name="host", min_mib=512), area))
        await until(lambda: memory.keeper.plan.settled, 5)
        assert memory.reports == []
        for vm, mib in (("mad", 1024), ("beside", 160)):
            await driver.start(sized(rig, vm, mib, Priority.BEST_EFFORT))
        await driver.start(sized(rig, "other", 160))
        for vm in ("mad", "beside", "other"):
            await guest_up(driver, vm)
        use = (await driver.memory.use("mad")).group
        assert use is not None and use.area == "vms-best-effort" and use.max_kib > 1024 << 10
        around = groups.area("vms-best-effort")
        assert around is not None and cgroup_memory.used_by(around).max_kib == 900 << 10
        eating = asyncio.create_task(fill_cache(driver, "mad"))
        gone = await told(changes, "gone")
        eating.cancel()
        await asyncio.wait([eating])
    assert (gone.vm, gone.cause) == ("mad", GoneCause.CRASHED)
    assert "want of memory" in gone.sentence and "vms-best-effort is 900 MiB" in gone.sentence, gone.sentence
    assert sorted(m.vm for m in await driver.open() if m.status == "running") == ["beside", "other"]
    for vm in ("beside", "other"):
        assert (await driver.exec(vm, ("true",), b"", 10.0)).exit_code == 0


async def test_whom_the_host_would_rather_lose(rig: QemuRig, driver: QemuDriver) -> None:
    await driver.start(sized(rig, "cheap", 160, Priority.BEST_EFFORT))
    await driver.start(sized(rig, "dear", 160, Priority.CRITICAL))
    scores = {
        vm: int(Path(f"/proc/{(await driver.info(vm)).pid}/oom_score_adj").read_text()) for vm in ("cheap", "dear")
    }
    assert scores == {"cheap": EXPENDABLE[Priority.BEST_EFFORT], "dear": EXPENDABLE[Priority.CRITICAL]}
    assert scores["cheap"] > scores["dear"] > int(Path("/proc/self/oom_score_adj").read_text())


async def test_the_next_agent_adopts_a_vm_in_its_area(rig: QemuRig, driver: QemuDriver, groups: Groups) -> None:
    machine = await driver.start(sized(rig, "kept", 160))
    await driver.close()
    second = QemuDriver("n1", rig.top / "n1", {"default": rig.pool}, cache=rig.top.parent / "probes", groups=groups)
    assert [m.pid for m in await second.open()] == [machine.pid]
    use = (await second.memory.use("kept")).group
    assert groups.area("") is None or (use is not None and use.area == "vms-normal")
    await second.kill("kept")
    around = groups.area("vms-normal")
    assert around is None or [p for p in around.iterdir() if p.is_dir()] == []
    await second.close()
