"""The watchdog and a real guest: it is told to stop, which drains its disks, and goes on as it was; killed, it is killed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import msgspec
import pytest

from services.node.drivers import CannotStart
from services.node.drivers.qemu.driver import QemuDriver
from tests.contract.driver_rigs import QemuRig
from tests.contract.watchdog_rig import Rig, now_us, stat
from tests.guests import tiny_image

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
)
LEASE_US = 2_500_000


class Guest:
    """A guest under a lease of LEASE_US, renewed by hand."""

    def __init__(self, rig: Rig, driver: QemuDriver, pid: int) -> None:
        self.rig, self.driver, self.pid = rig, driver, pid

    async def status(self) -> str:
        found: dict[str, Any] = await self.driver._fleet.find("web-1").ask("query-status")
        return str(found["status"])

    async def becomes(self, status: str) -> None:
        async with asyncio.timeout(2):
            while await self.status() != status:
                await asyncio.sleep(0.01)

    def renew(self) -> int:
        return self.rig.grant(pools=[], lease_us=LEASE_US)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self.rig.hear()
                await asyncio.sleep(0.01)
        assert holds(), what

    async def learnt(self) -> None:
        await self.until(lambda: any(w["word"] == "learn" for w in self.rig.hear()), "it asks")
        asked = [w for w in self.rig.hear() if w["word"] == "learn"][-1]
        self.rig.say("learnt", number=asked["number"], raised=[])


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Guest]:
    qemu = QemuRig(tmp_path, tiny_image())
    driver = qemu.driver("n1")
    await driver.open()
    rig = Rig(tmp_path, "n1", qemu.pool)
    try:
        rig.start()
        rig.held(pools=[], lease_us=30_000_000, tolerant=True)
        spec = msgspec.structs.replace(qemu.spec(), protected=True)
        machine = await driver.start(spec)
        one = Guest(rig, driver, machine.pid)
        await one.until(lambda: rig.state_now()["guarded"] == 1, "it is guarded")
        yield one
    finally:
        rig.end()
        await driver.close()
        qemu.end()


async def test_it_is_stopped_drained_goes_on_and_is_killed(guest: Guest) -> None:
    guest.renew()
    await guest.until(lambda: guest.rig.state_now()["own"] == "paused", "it is paused")
    await guest.becomes("paused")
    assert stat(guest.pid)[0] != "T"  # its process serves on: nothing is half written
    # somebody who does not know of the lease lets it go on
    await guest.driver._fleet.find("web-1").ask("cont")
    await guest.becomes("paused")
    guest.renew()
    await guest.learnt()
    await guest.becomes("running")
    # one that was paused by its owner stays so
    await guest.driver.pause("web-1")
    guest.renew()
    await guest.until(lambda: guest.rig.state_now()["own"] == "paused", "it is paused")
    guest.rig.hear().clear()
    guest.renew()
    await guest.learnt()
    await guest.until(lambda: guest.rig.state_now()["own"] == "held", "it is held")
    await asyncio.sleep(0.2)
    assert await guest.status() == "paused"
    sent_us = guest.renew()
    changes = guest.driver.changes()
    async with asyncio.timeout(5):
        while (change := await anext(changes)).status != "gone":
            continue
    assert LEASE_US * 4 // 5 <= now_us() - sent_us < LEASE_US
    assert change.vm == "web-1"


async def test_one_that_does_not_answer_is_stopped_by_signal_and_goes_on(guest: Guest) -> None:
    """As one whose disk hangs: its monitor is mute."""
    os.kill(guest.pid, SIGSTOP)
    guest.renew()
    await guest.until(lambda: guest.rig.state_now()["own"] == "paused", "it is paused")
    await asyncio.sleep(0.4)
    os.kill(guest.pid, SIGCONT)
    await guest.becomes("paused")  # what it was told meanwhile counts
    guest.renew()
    await guest.learnt()
    await guest.becomes("running")


async def test_a_pool_with_the_hosts_cache_takes_no_protected_vm(tmp_path: Path) -> None:
    qemu = QemuRig(tmp_path, tiny_image())
    driver = qemu.driver("n1")
    await driver.open()
    driver._fleet.host = msgspec.structs.replace(driver._fleet.host, direct=frozenset())
    try:
        with pytest.raises(CannotStart, match="has no O_DIRECT"):
            await driver.start(msgspec.structs.replace(qemu.spec(), protected=True))
    finally:
        await driver.close()
        qemu.end()
