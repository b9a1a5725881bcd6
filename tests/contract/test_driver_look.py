"""A look at a running VM tells what its process has: nothing but what was ordered, until somebody's hand has been there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from proto.hardware import Drift, Hardware
from proto.machine import DiskLimits, MachineSpec, birth
from services.node.drift import differences
from services.node.drivers import Driver, NoSuchVm
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.simulated import SimulatedDriver
from tests.contract.driver_rigs import GUEST_S_MAX, Rig, guest_up, rig_of
from tests.contract.test_driver_io import machine, plugged

LIMITS = DiskLimits(iops=500, mibps=20, iops_burst=900, mibps_burst=40)


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


def limited(rig: Rig) -> MachineSpec:
    """A disk of each bus, limited; a NIC of each model, one of them without its cable."""
    spec = machine(rig)
    disks = tuple(replace(d, limits=LIMITS) for d in spec.disks)
    lan, lan2 = spec.nics
    return replace(spec, disks=disks, nics=(replace(lan, link=False), lan2))


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    await plugged(rig, made, limited(rig))
    yield made
    await made.close()


@pytest.fixture
async def started(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    await made.start(limited(rig))
    await guest_up(made)
    yield made
    await made.close()


@pytest.fixture
def spec(rig: Rig) -> MachineSpec:
    wanted = limited(rig)
    return replace(wanted, born=birth(wanted))


async def seen(driver: Driver, spec: MachineSpec, hardware: Hardware | None = None) -> tuple[Drift, ...]:
    present = (await driver.look(spec.vm)).present
    assert present is not None
    return differences(spec, hardware, present)


async def told(driver: Driver, spec: MachineSpec) -> list[tuple[str, bool]]:
    return [(drift.name, drift.repaired) for drift in await seen(driver, spec)]


async def test_a_start_gives_limits_and_cables_too(started: Driver, spec: MachineSpec) -> None:
    assert await seen(started, spec) == ()
    present = (await started.look("web-1")).present
    assert present is not None
    assert {d.limits for d in present.disks} == {LIMITS} and len(present.disks) == len(spec.disks)
    assert {n.slot: n.link for n in present.nics}[8] is False
    assert [d.file for d in present.disks] == [d.file for d in spec.disks]


async def test_nothing_differs_after_any_fit(driver: Driver, spec: MachineSpec) -> None:
    shape = replace(spec.shape, vcpus=2, memory_mib=288)
    disk = replace(spec.disks[1], name="late", slot=5, file="web-1-late.qcow2", serial="late")
    grown = replace(spec, shape=shape, disks=(*spec.disks, disk), nics=tuple(replace(n, link=True) for n in spec.nics))
    has = (await driver.fit(grown)).hardware
    assert await seen(driver, grown, has) == ()
    less = replace(spec, leaving=(5,))
    has = (await driver.fit(less)).hardware
    assert await seen(driver, less, has) == ()


async def test_nobody_looks_at_a_vm_that_is_not_there(driver: Driver) -> None:
    with pytest.raises(NoSuchVm):
        await driver.look("nobody")


# --- by somebody's hand ---------------------------------------------------------------------------------------------------


async def hand(on: Driver, command: str, /, **words: Any) -> None:
    """Past the agent, on the monitor itself."""
    assert isinstance(on, QemuDriver)
    await on._fleet.vms["web-1"].do(command, {key.replace("_", "-"): value for key, value in words.items()})


@pytest.fixture
def real(driver: Driver) -> QemuDriver:
    assert isinstance(driver, QemuDriver)
    return driver


by_hand = pytest.mark.parametrize("rig", ["qemu"], indirect=True)
"""a monitor is needed to put a hand to"""


@by_hand
async def test_limits_and_cables_changed_by_hand_are_found_and_set_right(real: QemuDriver, spec: MachineSpec) -> None:
    keys = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    backend = "/machine/peripheral/disk1-dev/virtio-backend"
    await real._fleet.vms["web-1"].do("block_set_io_throttle", {"id": backend, **keys, "iops": 7})
    await real._fleet.vms["web-1"].do("block_set_io_throttle", {"id": "disk3-dev", **keys, "bps_rd": 4096})
    await hand(real, "set_link", name="nic8-dev", up=True)
    assert await told(real, spec) == [("disk1", True), ("disk3", True), ("lan", True)]
    has = (await real.fit(spec)).hardware
    assert await seen(real, spec, has) == ()


@by_hand
async def test_a_device_pulled_by_hand_is_found_and_plugged_again(real: QemuDriver, spec: MachineSpec) -> None:
    vm = real._fleet.vms["web-1"]
    assert await vm.fitting.unplug("disk1-dev") == "" and await vm.fitting.unplug("nic4-dev") == ""
    assert await told(real, spec) == [("disk1", True), ("lan2", True)]
    has = (await real.fit(spec)).hardware
    assert has is not None and has.misfits == () and await seen(real, spec, has) == ()


@by_hand
async def test_what_was_plugged_by_hand_is_found_and_left_alone(real: QemuDriver, spec: MachineSpec) -> None:
    await hand(real, "device_add", driver="virtio-rng-pci", id="mine", bus="port5")
    await hand(real, "netdev_add", type="user", id="nic6")
    await hand(real, "device_add", driver="virtio-net-pci", id="nic6-dev", bus="port6", netdev="nic6")
    assert await told(real, spec) == [("nic6", False), ("mine", False)]
    has = (await real.fit(spec)).hardware
    assert [d.name for d in await seen(real, spec, has)] == ["nic6", "mine"]


@by_hand
async def test_sizes_changed_by_hand_are_found(real: QemuDriver, spec: MachineSpec) -> None:
    await hand(real, "block_resize", node_name="disk1", size=96 << 20)
    await hand(real, "qom-set", path="/machine/peripheral/growth", property="requested-size", value=64 << 20)
    (memory, disk) = await seen(real, spec)
    assert (memory.what, memory.repaired, "224 MiB" in memory.sentence) == ("memory", True, True)
    assert (disk.name, disk.repaired, "96 MiB in place of 64" in disk.sentence) == ("disk1", False, True)
    has = (await real.fit(spec)).hardware
    assert [d.name for d in await seen(real, spec, has)] == ["disk1"]


@by_hand
async def test_a_guest_without_its_driver_has_cables_that_nobody_reads(real: QemuDriver, spec: MachineSpec) -> None:
    """At reset the card's registers are nowhere until somebody maps them."""
    await real.reset("web-1")
    await real.pause("web-1")
    present = (await real.look("web-1")).present
    assert present is not None and {n.slot: n.link for n in present.nics}[4] is None
    assert await seen(real, spec) == ()
    await real.resume("web-1")
    async with asyncio.timeout(GUEST_S_MAX):
        await guest_up(real)
    assert await seen(real, spec) == ()


@pytest.mark.parametrize("rig", ["simulated"], indirect=True)
async def test_a_simulated_hand_is_found(driver: Driver, spec: MachineSpec) -> None:
    assert isinstance(driver, SimulatedDriver)
    vm = driver.host.vms["web-1"]
    vm.foreign = (("mine", "virtio-rng-pci"),)
    vm.spec = replace(vm.spec, nics=tuple(replace(n, link=not n.link) for n in vm.spec.nics))
    assert [d.name for d in await seen(driver, spec)] == ["lan", "lan2", "mine"]
    await driver.fit(spec)
    assert [d.name for d in await seen(driver, spec)] == ["mine"]
