"""Recoveries by QEMU alone: at rest, and by size."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.node.drivers import DriverError
from services.node.drivers.qemu.bare import Bare
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.layers import backing_of
from tests.contract.driver_rigs import QemuRig, Rig, guest_up, rig_of, told
from tests.contract.recovery_rig import (
    FULL,
    NEWER,
    all_copied,
    backed_up,
    digests,
    file_of,
    files,
    fitted,
    folder,
    gone,
    holds,
    home,
    own_word,
    qemu_io,
    recovered,
    running,
    sh,
    slowly,
    some_home,
    spec_of,
    started,
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of("qemu", tmp_path)


@pytest.fixture
async def driver(rig: QemuRig) -> AsyncIterator[QemuDriver]:
    made = rig.driver()
    await made.open()
    yield made
    await made.close()


class Slow:
    """What comes home at rest does so at 1 MiB/s; begun: it has begun."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, do = asyncio.Event(), Bare.do

        async def slow(bare: Bare, command: str, words: dict[str, object] | None = None) -> object:
            if command != "block-stream":
                return await do(bare, command, words)
            answer = await do(bare, command, {**(words or {}), "speed": 1 << 20})
            self.begun.set()
            return answer

        patch.setattr(Bare, "do", slow)


async def dies(driver: QemuDriver) -> None:
    changes = driver.changes()
    os.kill(running(driver).process.pid, signal.SIGKILL)
    await told(changes, "gone")


async def test_a_process_that_dies_when_all_is_copied_has_lost_nothing(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guest flushes nothing meanwhile: until somebody does, where the copies lie is in QEMU's memory."""
    backed_up(rig)
    spec = await started(rig, driver)
    await sh(rig, driver, "echo own | dd of=/dev/vdb bs=512 seek=10 conv=fsync 2>/dev/null")
    with slowly(monkeypatch):
        await fitted(driver, spec)
        await some_home(driver)
    await all_copied(driver)
    await dies(driver)
    spec = await started(rig, driver, 2)
    await holds(rig, driver)
    assert files(await home(driver, spec)) == ("web-1-data.r1.qcow2",)
    await dies(driver)
    gone(rig)
    own = replace(spec, generation=3, born=None, disks=(spec.disks[0], replace(spec.disks[1], layers=())))
    await driver.start(own)
    await guest_up(driver)
    await holds(rig, driver)
    assert await own_word(rig, driver) == "own"


async def test_a_process_that_dies_when_it_has_copied_at_rest_has_lost_nothing(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    spec, quits = spec_of(rig), Bare.quit

    async def dies_instead(bare: Bare) -> None:
        bare._process.kill()
        await quits(bare)

    with monkeypatch.context() as patch:
        patch.setattr(Bare, "quit", dies_instead)
        with pytest.raises(DriverError, match="did not end well"):
            await driver.merge_layers("web-1", (spec.disks[1],))
    file = rig.pool / "disks" / spec.disks[1].file
    assert backing_of(file) == ""
    subprocess.run(["qemu-img", "compare", "-q", str(file), str(folder(rig, NEWER) / file_of(NEWER))], check=True)


async def test_what_comes_home_at_rest_gives_way_to_a_start(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    spec = spec_of(rig)
    with monkeypatch.context() as patch:
        slow = Slow(patch)
        merge = asyncio.create_task(driver.merge_layers("web-1", (spec.disks[1],)))
        await slow.begun.wait()
        assert rig.left_over("n1") == [], "no process of a VM"
        await driver.start(replace(spec, born=None))
        with pytest.raises(DriverError, match="is being started"):
            await merge
    await guest_up(driver)
    await holds(rig, driver)
    assert files(await home(driver, spec)) == ("web-1-data.r1.qcow2",)


async def test_what_comes_home_at_rest_gives_way_to_its_removal(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be removed when it is home: in a minute, or, where it is kept to a rate, in hours."""
    backed_up(rig)
    before, spec = digests(rig), spec_of(rig)
    with monkeypatch.context() as patch:
        slow = Slow(patch)
        merge = asyncio.create_task(driver.merge_layers("web-1", (spec.disks[1],)))
        await slow.begun.wait()
        async with asyncio.timeout(5):
            await driver.remove_disks("web-1", (spec.disks[1],))
        with pytest.raises(DriverError, match="its disks are removed"):
            await merge
    assert not (rig.pool / "disks" / spec.disks[1].file).exists() and digests(rig) == before


async def test_a_start_takes_no_longer_for_a_large_disk_and_its_figures_are_of_what_is_in_it(
    rig: QemuRig, driver: QemuDriver
) -> None:
    backed_up(rig)
    took = {}
    for generation, gib in enumerate((1, 64), 1):
        for backup in (FULL, NEWER):
            (folder(rig, backup) / file_of(backup)).unlink(missing_ok=True)
        full = folder(rig, FULL) / file_of(FULL)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(full), f"{gib}G"], check=True)
        qemu_io(full, *(f"write -P 0x41 {gib * 100 * part}M 1M" for part in range(10)))
        disk = replace(recovered(rig, FULL), size_mib=gib << 10, file=f"web-1-data.r{generation}.qcow2")
        spec = spec_of(rig, generation, disk)
        begun = time.monotonic()
        await driver.start(replace(spec, born=None))
        took[gib] = time.monotonic() - begun
        copying = asyncio.create_task(home(driver, spec))
        while not (copies := await driver.copies()) or not copies[0].all_mib:
            assert not copying.done(), "it is told before it has ended"
            await asyncio.sleep(0.005)  # how far it is has no event
        assert copies[0].all_mib == 10
        assert files(await copying) == (disk.file,)
        await driver.kill("web-1")
    assert took[64] < 2 * took[1] + 1.0, took


async def test_it_is_told_what_its_guests_writes_take_meanwhile(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    spec = await started(rig, driver)
    with slowly(monkeypatch):
        await fitted(driver, spec)
        await some_home(driver)
        assert (await driver.copies())[0].write_us == 0
        writing = asyncio.create_task(sh(rig, driver, WRITES))
        while not (copy := (await driver.copies())[0]).write_us:
            assert not writing.done(), "it wrote, and nothing was told of it"
            await asyncio.sleep(0.02)  # what its counters say has no event
        assert copy.write_us < 10_000_000 and copy.normal_us == 0, "what is normal was not learnt"
        await writing
    await driver.kill("web-1")


WRITES = "for i in $(seq 60); do echo $i | dd of=/dev/vdb bs=512 seek=$i conv=fsync 2>/dev/null; done"


async def test_where_qemu_serves_somebody_else_the_job_does_it_alone(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    spec = await started(rig, driver)
    vm = running(driver)
    await vm.do("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "another"}}})
    with slowly(monkeypatch):
        await fitted(driver, spec)
        await some_home(driver)
    (copy,) = await driver.copies()
    assert copy.all_mib == spec.disks[1].size_mib, "of how much is in it nothing is known"
    assert files(await home(driver, spec)) == ("web-1-data.r1.qcow2",)
    await holds(rig, driver)
    await vm.do("nbd-server-stop")
