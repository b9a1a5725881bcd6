"""The Driver contract's part about full pools: a guest whose write has no room stands still, loses nothing and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from proto.machine import Disk, DiskBus, DiskFormat
from proto.space import PoolKind
from services.node.drivers import NO_SPACE, Driver, GuestSilent
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.simulated import SimulatedDriver
from tests.contract.driver_rigs import QemuRig, SimRig, guest_up, rig_of, told
from tests.contract.small_pool import SmallPool, small_pool

SIZE_MIB = 48
DATA_KIB = 16 * 1024


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[SimRig]:
    for rig in rig_of("simulated", tmp_path):
        assert isinstance(rig, SimRig)
        yield rig


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[QemuRig]:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        yield rig


async def test_a_simulated_guest_stands_still_and_goes_on(sim: SimRig) -> None:
    driver = sim.driver()
    assert isinstance(driver, SimulatedDriver)
    await driver.open()
    changes = driver.changes()
    await driver.start(sim.spec())
    sim.pool.free_mib = 0
    driver.host.write("web-1", 0)
    driver.wake()
    change = await told(changes, NO_SPACE)
    assert (change.generation, change.full) == (1, (0,))
    await driver.pause("web-1")
    assert [(m.status, m.full) for m in await driver.open()] == [(NO_SPACE, (0,))]
    await driver.resume("web-1")
    assert (await told(changes, NO_SPACE)).full == (0,)
    sim.pool.free_mib = 1000
    assert [pool.free_mib for pool in await driver.pools()] == [1000]
    await driver.resume("web-1")
    assert [(m.status, m.full) for m in await driver.open()] == [("running", ())]
    await driver.close()


def second(bus: DiskBus, format: DiskFormat, slot: int) -> Disk:
    return Disk(
        name=f"disk{slot}", pool="small", file=f"web-1-disk{slot}.{format}", size_mib=SIZE_MIB // 2, format=format,
        serial=f"small{slot}", slot=slot, bus=bus,
    )  # fmt: skip


async def in_guest(driver: Driver, line: str, timeout_s: float = 30.0) -> str:
    done = await driver.exec("web-1", ("sh", "-c", line), b"", timeout_s)
    assert (done.exit_code, done.error) == (0, ""), (line, done)
    return done.stdout.decode().strip()


class Node:
    """A node with a small pool beside its own."""

    def __init__(self, rig: QemuRig, pool: SmallPool) -> None:
        self.rig, self.pool = rig, pool
        self.driver = self.agent()

    def agent(self) -> QemuDriver:
        pools = {"default": self.rig.pool, "small": self.pool.folder}
        return QemuDriver("n1", self.rig.top / "n1", pools, share=2, cache=self.rig.top.parent / "probes")

    async def overfilled(self, device: str, slot: int) -> str:
        """The guest writes more to its disk than the pool has room for, and stands still; the digest of what it writes."""
        driver, changes = self.driver, self.driver.changes()
        await in_guest(driver, f"dd if=/dev/urandom of=/run/data bs=1k count={DATA_KIB} 2>/dev/null")
        digest = await in_guest(driver, "md5sum < /run/data")
        self.pool.fill(leave_kib=4 * 1024)
        write = f"dd if=/run/data of={device} bs=64k conv=fsync && echo whole > /run/done"
        with suppress(GuestSilent):  # it may stand still before its agent has said that the program was started
            await in_guest(driver, f"rm -f /run/done; ({write}) > /run/said 2>&1 &", 5.0)
        change = await told(changes, NO_SPACE)
        assert change.full == (slot,)
        return digest

    async def written(self, device: str) -> str:
        """The digest of what is on the disk, once the guest has written all."""
        driver = self.driver
        await in_guest(driver, "while ! [ -e /run/done ]; do sleep 0.1; done")
        assert "rror" not in await in_guest(driver, "cat /run/said")
        await in_guest(driver, "sync; echo 3 > /proc/sys/vm/drop_caches")
        return await in_guest(driver, f"dd if={device} bs=1k count={DATA_KIB} 2>/dev/null | md5sum")


@pytest.fixture
def node(qemu: QemuRig, tmp_path: Path) -> Iterator[Node]:
    with small_pool(tmp_path / "small", SIZE_MIB) as pool:
        yield Node(qemu, pool)
        qemu.end()


async def test_a_real_guest_loses_nothing_in_a_full_pool(node: Node) -> None:
    """Said from the start, adopted by another agent, resumed too early, and then with room."""
    driver = node.driver
    await driver.open()
    spec = node.rig.spec()
    spec = msgspec.structs.replace(spec, disks=(*spec.disks, second(DiskBus.VIRTIO_BLK, DiskFormat.QCOW2, 1)))
    await driver.start(spec)
    await guest_up(driver)
    digest = await node.overfilled("/dev/vdb", 1)
    await driver.pause("web-1")
    assert [(m.status, m.full) for m in await driver.open()] == [(NO_SPACE, (1,))]
    seen = {pool.name: pool for pool in await driver.pools()}
    assert (seen["small"].size_mib, seen["small"].kind, seen["small"].error) == (SIZE_MIB, PoolKind.LOCAL, "")
    assert seen["small"].free_mib < 4
    await driver.close()
    node.driver = driver = node.agent()
    assert [(m.status, m.full) for m in await driver.open()] == [(NO_SPACE, (1,))]
    changes = driver.changes()
    await driver.resume("web-1")
    assert (await told(changes, NO_SPACE)).full == (1,)
    node.pool.empty()
    await driver.resume("web-1")
    assert [(m.status, m.full) for m in await driver.open()] == [("running", ())]
    assert await node.written("/dev/vdb") == digest
    await driver.kill("web-1")
    await driver.close()


async def test_a_disk_that_was_plugged_stops_its_guest_too(node: Node) -> None:
    """By SCSI, raw; and a reset instead of waiting: the guest begins anew."""
    driver = node.driver
    await driver.open()
    spec = node.rig.spec()
    first, other = second(DiskBus.VIRTIO_BLK, DiskFormat.QCOW2, 1), second(DiskBus.VIRTIO_SCSI, DiskFormat.RAW, 2)
    spec = msgspec.structs.replace(spec, disks=(*spec.disks, first))
    await driver.start(spec)
    await guest_up(driver)
    fitted = await driver.fit(msgspec.structs.replace(spec, disks=(*spec.disks, other)))
    assert fitted.hardware is not None and fitted.hardware.misfits == ()
    await in_guest(driver, "while ! [ -b /dev/sda ]; do sleep 0.1; done")
    digest = await node.overfilled("/dev/sda", 2)
    node.pool.empty()
    await driver.resume("web-1")
    assert await node.written("/dev/sda") == digest
    await node.overfilled("/dev/vdb", 1)
    await driver.reset("web-1")
    assert [(m.status, m.resets, m.full) for m in await driver.open()] == [("running", 1, ())]
    await guest_up(driver)
    await driver.kill("web-1")
    await driver.close()


async def test_what_a_pool_does_not_answer_is_said(qemu: QemuRig, tmp_path: Path) -> None:
    driver = QemuDriver("n1", qemu.top / "n1", {"default": qemu.pool, "gone": tmp_path / "gone"}, share=2, cache=tmp_path)
    await driver.open()
    async with asyncio.timeout(10):
        assert [pool.error for pool in await driver.pools()] == ["", ""]
        (tmp_path / "gone").rename(tmp_path / "away")
        seen = {pool.name: pool for pool in await driver.pools()}
    assert "No such file" in seen["gone"].error and seen["gone"].free_mib == -1
    assert not seen["default"].error
    await driver.close()
