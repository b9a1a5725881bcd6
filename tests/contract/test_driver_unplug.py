"""A guest that does not let go of a device: told as pending, asked again, and over with its restart, whoever restarts it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.machine import MachineSpec, birth
from services.node.drivers import Driver, GuestSilent, MachineChanged
from services.node.drivers.qemu import fitting
from services.node.drivers.qemu.driver import QemuDriver
from tests.contract.driver_rigs import QemuRig, guest_up, rig_of, told
from tests.contract.test_driver_io import machine, plugged

DEAF = "acpiphp.disable=1"
"""a Linux guest that hears of no plug and no unplug"""
LEAVING = (1, 2, 3, 4)
"""a disk of each bus, and an e1000e"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for made in rig_of("qemu", tmp_path):
        assert isinstance(made, QemuRig)
        yield made


@pytest.fixture
def spec(rig: QemuRig) -> MachineSpec:
    wanted = machine(rig)
    assert wanted.boot is not None
    deaf = replace(wanted, boot=replace(wanted.boot, cmdline=f"{wanted.boot.cmdline} {DEAF}"))
    return replace(deaf, born=birth(wanted))


@pytest.fixture
async def driver(rig: QemuRig, spec: MachineSpec, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Driver]:
    monkeypatch.setattr(fitting, "UNPLUG_S_MAX", 0.3)
    made = rig.driver()
    await made.open()
    await plugged(rig, made, spec)
    yield made
    await made.close()


async def parts(driver: Driver) -> list[str]:
    """What QEMU still has of the slots that are to be empty: block nodes, devices, networks, and files open."""
    assert isinstance(driver, QemuDriver)
    vm = driver._fleet.vms["web-1"]
    names = {str(n["node-name"]) for n in await vm.do("query-named-block-nodes", {"flat": True})}
    names |= await vm.fitting.devices()
    names |= {line.split(":")[0].strip(" \\") for line in (await network(driver)).splitlines()}
    files = {p.resolve().name for p in Path(f"/proc/{vm.process.pid}/fd").iterdir()}
    wanted = tuple(f"{kind}{slot}" for slot in LEAVING for kind in ("disk", "nic"))
    return sorted(n for n in names | files if n.startswith(wanted) or (n.startswith("web-1-disk") and n.endswith(".qcow2")))


async def network(driver: Driver) -> str:
    assert isinstance(driver, QemuDriver)
    return str(await driver._fleet.vms["web-1"].do("human-monitor-command", {"command-line": "info network"}))


def without(spec: MachineSpec) -> MachineSpec:
    return replace(spec, disks=spec.disks[:1], nics=spec.nics[:1], leaving=LEAVING)


@pytest.mark.parametrize("by", ["verb", "guest"])
async def test_what_a_guest_does_not_let_go_of_is_pending_until_it_restarts(
    driver: Driver, spec: MachineSpec, by: str
) -> None:
    for _ in range(2):  # asked again, it is no other answer
        has = (await driver.fit(without(spec))).hardware
        assert has is not None
        pending = [(m.slot, m.pending, "not let it go" in m.sentence) for m in has.misfits]
        assert sorted(pending) == [(slot, True, True) for slot in LEAVING]
        assert set(LEAVING) - {2} <= set(has.slots), "the SCSI disk is gone, its controller is not"
    assert {"web-1-disk1.qcow2", "disk1", "nic4", "disk2-bus"} <= set(await parts(driver))
    if by == "verb":
        await driver.reset("web-1")
    else:
        changes = driver.changes()
        with contextlib.suppress(GuestSilent):  # its agent goes with it
            await driver.exec("web-1", ("reboot", "-f"), b"", 1.0)
        change: MachineChanged = await told(changes, "running")
        assert change.was_reset and "the guest was reset" in change.sentence
    has = (await driver.fit(without(spec))).hardware
    assert has is not None and (has.slots, has.misfits) == ((0, 8), ())
    assert await parts(driver) == [], "no file is open any more"
    await guest_up(driver)
    assert (await driver.fit(without(spec))).hardware == has


async def test_what_an_agent_left_behind_a_gone_device_is_taken_away(driver: Driver, spec: MachineSpec) -> None:
    """It died between the device's end and that of its nodes."""
    assert isinstance(driver, QemuDriver)
    vm = driver._fleet.vms["web-1"]
    for device in ("disk1-dev", "nic4-dev"):
        await vm.do("device_del", {"id": device})
    await driver.reset("web-1")
    assert {"disk1", "nic4"} <= set(await parts(driver))
    some = replace(spec, disks=(spec.disks[0], *spec.disks[2:]), nics=spec.nics[:1], leaving=(1, 4))
    has = (await driver.fit(some)).hardware
    assert has is not None and (has.slots, has.misfits) == ((0, 2, 3, 8), ())
    assert not {"disk1", "disk1-file", "nic4", "web-1-disk1.qcow2"} & set(await parts(driver))
