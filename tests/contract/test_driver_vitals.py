"""Signs of life of guests: one suite for both drivers; and of real guests those that hang are found, and no others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libs.common.bus.memory import MemoryBus
from libs.common.clock import SystemClock
from libs.common.messages import NodeId
from proto.vitals import Look, Sign, VmVitals
from services.ha.verdict_rule import two_signs
from services.node import screens
from services.node.drivers import Driver, GuestSilent, Machine, NoSuchVm
from services.node.effects import Kept
from services.node.pictures import Pictures
from services.node.vitals_watch import VitalsWatch
from services.node.vm import Vm
from tests.contract.driver_rigs import QemuRig, Rig, guest_up, rig_of

ROUND_S = 3.0
PATIENT_S = 150.0
"""half a minute where the host gives the guest time; where not, silence says nothing, and is waited out"""
SCRIPT_S = 5.0
BOOTS_S_MAX = 90.0


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    yield made
    await made.close()


async def test_a_guest_that_is_up_shows_it(rig: Rig, driver: Driver) -> None:
    await driver.start(rig.spec())
    await guest_up(driver)
    count = await driver.vitals("web-1")
    assert (count.generation, count.status, count.channel, count.counted, count.hold) == (1, "running", True, True, "")
    assert len(count.vcpus) == 1 and count.ran_out == 0
    assert await driver.ping("web-1", 5.0)
    assert screens.classify(screens.parse(await driver.frame("web-1")))[0] in (Look.BLACK, Look.OTHER)
    await driver.pause("web-1")
    assert (await driver.vitals("web-1")).status == "paused"
    await driver.resume("web-1")
    await driver.reset("web-1")
    after = await driver.vitals("web-1")
    assert after.began > count.began and not after.channel
    for question in (driver.vitals("web-9"), driver.ping("web-9", 1.0), driver.frame("web-9")):
        with pytest.raises(NoSuchVm):
            await question


async def test_a_panic_has_a_picture_whether_there_is_time_to_read_it_or_not(rig: Rig, driver: Driver, tmp_path: Path) -> None:
    await driver.start(rig.spec())
    await guest_up(driver)
    watched = Watched(driver, tmp_path / "pictures", "web-1")
    cold = await watched.watch.witness("web-1")
    assert cold.screen is not None and cold.screen.look is Look.UNKNOWN
    assert watched.pictures.get("web-1", cold.screen.digest)
    await watched.watch.look()
    warm = await watched.watch.witness("web-1")
    assert warm.screen is not None and warm.screen.look in (Look.BLACK, Look.OTHER)
    await driver.kill("web-1")
    assert (await watched.watch.witness("web-1")).screen is None


WATCHDOG = "watchdog -T 4 -t 1 /dev/watchdog; sleep 2; killall -9 watchdog"


async def test_a_watchdog_that_is_not_wound_up_runs_out_and_nothing_else_happens(tmp_path: Path) -> None:
    for rig in rig_of("qemu", tmp_path):
        driver = rig.driver()
        await driver.open()
        await begun(driver, rig, "web-1")
        assert (await driver.exec("web-1", ("/bin/sh", "-c", WATCHDOG), b"", BOOTS_S_MAX)).exit_code == 0
        async with asyncio.timeout(BOOTS_S_MAX):
            while not (count := await driver.vitals("web-1")).ran_out:
                await asyncio.sleep(0.2)
        assert (count.status, count.began) == ("running", 2) and await driver.ping("web-1", 10.0)
        await driver.reset("web-1")
        assert (await driver.vitals("web-1")).ran_out == 0
        await driver.close()


class Watched:
    """What an agent would tell of some VMs."""

    def __init__(self, driver: Driver, folder: Path, *vms: str) -> None:
        known = {vm: Vm(Kept(vm, 1, 1), machine=Machine(vm, 1, 1, "running")) for vm in vms}
        self.pictures = Pictures(folder)
        self.watch = VitalsWatch(NodeId("n1"), "b", driver, MemoryBus(), SystemClock(), lambda: known, self.pictures)

    async def rounds(self, seconds: float, enough: int = 99) -> dict[str, float]:
        """When each of them was found to hang, by the rule; two rounds more once so many were."""
        begun, found, more = time.monotonic(), dict[str, float](), 2
        while time.monotonic() - begun < seconds and more:
            next_s = time.monotonic() + ROUND_S
            more -= len(found) >= enough
            await self.watch.look()
            for told in self.told:
                if two_signs(told.findings) and not told.hold:
                    found.setdefault(told.vm, time.monotonic() - begun)
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        return found

    @property
    def told(self) -> tuple[VmVitals, ...]:
        return self.watch.vitals.told(round(time.monotonic() * 1e6))


GUESTS = {
    # its kernel has died, and nothing tells QEMU
    "dead": "rmmod pvpanic_pci pvpanic_mmio pvpanic; (sleep 3; echo c > /proc/sysrq-trigger) &",
    # it writes all the time, and its agent is stuck
    "writes": "(sleep 3; killall -STOP qemu-ga; while :; do dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync; sleep 2; done) &",
}


async def begun(driver: Driver, rig: Rig, vm: str) -> None:
    await driver.start(rig.spec(vm))
    assert (await driver.exec(vm, ("true",), b"", BOOTS_S_MAX)).exit_code == 0


@pytest.mark.timeout(400)
async def test_guests_that_hang_are_found_and_no_others(tmp_path: Path) -> None:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        driver = rig.driver()
        await driver.open()
        for vm in GUESTS:
            await begun(driver, rig, vm)
        watched = Watched(driver, tmp_path / "pictures", *GUESTS)
        for vm, script in GUESTS.items():
            quiet = f"{{ {script}\n}} > /dev/null 2>&1 < /dev/null"
            with contextlib.suppress(GuestSilent):  # on a busy machine it may be dead before it has answered
                await driver.exec(vm, ("/bin/sh", "-c", quiet), b"", SCRIPT_S)
        found = await watched.rounds(PATIENT_S, enough=1)
        await driver.close()
        assert set(found) == {"dead"}
        said = {told.vm: {f.sign: f.word for f in told.findings} for told in watched.told}
        assert said["writes"] == said["writes"] | {Sign.AGENT: "silent", Sign.IO: "moves"}
        (screen,) = (told.screen for told in watched.told if told.vm == "dead")
        assert screen is not None and watched.pictures.get("dead", screen.digest)
