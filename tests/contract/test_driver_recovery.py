"""VMs that start on a backup's files, and whose data comes home while they run: one suite for both drivers. What a guest has
written is looked at from inside; that the backup is as it was, by its digest."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.images import DiskSource
from proto.machine import birth
from services.node.drivers import BadImage, CannotStart, Driver, Locked
from services.node.drivers.qemu import reads
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.layers import backing_of
from tests.contract.driver_rigs import QemuRig, Rig, guest_up, rig_of, told
from tests.contract.recovery_rig import (
    FULL,
    HOME_S_MAX,
    NEWER,
    all_copied,
    backed_up,
    coming,
    digests,
    files,
    fitted,
    gone,
    holds,
    home,
    merging,
    own_word,
    recovered,
    running,
    sh,
    slowly,
    some_home,
    spec_of,
    started,
)


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    yield made
    await made.close()


async def test_a_guest_runs_on_a_backup_and_its_data_comes_home(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    before = digests(rig)
    spec = await started(rig, driver)
    await holds(rig, driver)
    await sh(rig, driver, "echo own | dd of=/dev/vdb bs=512 seek=10 conv=fsync 2>/dev/null")
    has = await home(driver, spec)
    assert files(has) == ("web-1-data.r1.qcow2",) and has.misfits == ()
    assert await fitted(driver, spec) == has, "said again it changes nothing"
    assert await driver.copies() == ()
    await holds(rig, driver)
    assert digests(rig) == before, "nobody writes a backup"
    if isinstance(rig, QemuRig):
        assert backing_of(rig.pool / "disks" / "web-1-data.r1.qcow2") == ""
        pid = (await driver.info("web-1")).pid
        held = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert not [name for name in held if "/backups/" in name], "a backup that was deleted would take room for ever"
    gone(rig)
    await sh(rig, driver, "echo 3 > /proc/sys/vm/drop_caches")
    await holds(rig, driver)
    own = replace(spec, generation=2, born=None, disks=tuple(replace(d, layers=()) for d in spec.disks))
    await driver.kill("web-1")
    await driver.start(own)
    await guest_up(driver)
    await holds(rig, driver)
    assert await own_word(rig, driver) == "own"
    await driver.kill("web-1")
    await driver.remove_disks("web-1", own.disks)
    assert rig.disks("n1") == []


async def test_a_vm_that_is_removed_leaves_its_backup_alone(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    before = digests(rig)
    spec = await started(rig, driver)
    await driver.kill("web-1")
    await driver.remove_disks("web-1", spec.disks)
    assert rig.disks("n1") == [] and digests(rig) == before
    await started(rig, driver, 2)
    await holds(rig, driver)


async def test_two_are_recovered_from_one_backup_at_once(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    spec = await started(rig, driver)
    other = replace(
        rig.spec("web-2"), disks=(*rig.spec("web-2").disks, replace(recovered(rig), file="web-2-data.r1.qcow2"))
    )
    await driver.start(other)
    await guest_up(driver, "web-2")
    assert files(await home(driver, spec)) == ("web-1-data.r1.qcow2",)
    assert files(await home(driver, replace(other, born=birth(other)))) == ("web-2-data.r1.qcow2",)


async def test_a_backup_that_is_not_whole_is_refused_by_its_name(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    gone(rig, FULL)
    with pytest.raises(CannotStart, match=r"the backup b1-1 of old-1 in pool (default|other) is damaged"):
        await driver.start(replace(spec_of(rig), born=None))
    assert rig.left_over("n1") == []
    gone(rig, NEWER)
    with pytest.raises(CannotStart, match=r"the backup b1-2 of old-1 in pool (default|other) is damaged"):
        await driver.start(replace(spec_of(rig, 2), born=None))


async def test_a_guest_whose_data_comes_home_takes_no_other_way(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    spec = spec_of(rig)
    with pytest.raises(CannotStart, match="still stands on a backup"):
        await rig.driver("n2").receive(replace(spec, born=None))
    for resting in (True, False):
        with pytest.raises(BadImage, match="still stands on a backup"):
            await driver.make_image("default", "made", DiskSource(vm="web-1", disk=recovered(rig), resting=resting))


async def test_a_process_that_dies_while_it_copies_is_started_again_and_the_copy_goes_on(
    rig: Rig, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    before = digests(rig)
    spec = await started(rig, driver)
    with slowly(monkeypatch):
        assert merging(await fitted(driver, spec))
        await some_home(driver)
    await sh(rig, driver, "echo own | dd of=/dev/vdb bs=512 seek=10 conv=fsync 2>/dev/null")
    changes = driver.changes()
    if rig.real:
        os.kill((await driver.info("web-1")).pid, signal.SIGKILL)
    else:
        await rig.crash(driver, "web-1")
    await told(changes, "gone")
    spec = await started(rig, driver, 2)
    await holds(rig, driver)
    assert files(await home(driver, spec)) == ("web-1-data.r1.qcow2",)
    assert digests(rig) == before
    gone(rig)
    await sh(rig, driver, "echo 3 > /proc/sys/vm/drop_caches")
    await holds(rig, driver)
    assert await own_word(rig, driver) == "own"


async def test_the_next_agent_sees_to_a_copy_that_goes_on(
    rig: Rig, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    spec = await started(rig, driver)
    with slowly(monkeypatch):
        assert merging(await fitted(driver, spec))
        await some_home(driver)
        await driver.close()
        heir = rig.driver()
        await heir.open()
        assert merging(await fitted(heir, spec))
        await some_home(heir)
    await heir.close()
    heir = rig.driver()
    await heir.open()
    if isinstance(heir, QemuDriver):  # and one that comes when it has ended clears up
        vm = running(heir)
        await vm.do("block-job-set-speed", {"device": "merge1", "speed": 0})
        async with asyncio.timeout(HOME_S_MAX):
            await all_copied(heir)
        assert len(await vm.do("query-block-exports")) == 1
    try:
        assert files(await home(heir, spec)) == ("web-1-data.r1.qcow2",)
        await holds(rig, heir)
        if isinstance(heir, QemuDriver):
            assert await running(heir).do("query-block-exports") == [] and await running(heir).do("query-fdsets") == []
        await heir.kill("web-1")
    finally:
        await heir.close()


async def test_what_stands_on_a_backup_comes_home_at_rest(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    before = digests(rig)
    spec = await started(rig, driver)
    disk = spec.disks[1]
    await sh(rig, driver, "echo own | dd of=/dev/vdb bs=512 seek=10 conv=fsync 2>/dev/null")
    with pytest.raises(Locked):
        await driver.merge_layers("web-1", (disk,))
    await driver.kill("web-1")
    for _ in range(2):
        await driver.merge_layers("web-1", (disk,))
    assert digests(rig) == before
    gone(rig)
    await driver.start(replace(spec, generation=2, born=None, disks=(spec.disks[0], replace(disk, layers=()))))
    await guest_up(driver)
    await holds(rig, driver)
    assert await own_word(rig, driver) == "own"


async def test_what_a_guest_touched_on_a_backup_comes_first_the_next_time(
    rig: Rig, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    with slowly(monkeypatch):
        spec = await started(rig, driver)
        await fitted(driver, spec)
        assert (await coming(driver)).first_mib == 0, "nothing is known"
        await sh(rig, driver, "dd if=/dev/vdb of=/dev/null bs=64k count=4 skip=900 iflag=direct 2>/dev/null")
        async with asyncio.timeout(HOME_S_MAX):
            while isinstance(rig, QemuRig) and not reads.read(reads.place(rig.pool, "old-1", "data")).rounds:
                await asyncio.sleep(0.02)  # the end of a round has no event
        await driver.kill("web-1")
        for generation, rate in ((2, 1), (3, 0)):
            disk = replace(recovered(rig), file=f"web-1-data.r{generation}.qcow2", home_mibps=rate)
            spec = spec_of(rig, generation, disk)
            await driver.start(replace(spec, born=None))
            await fitted(driver, spec)
            assert ((await coming(driver)).first_mib > 0) is (rate == 0), "a drill is as a recovery that knows nothing"
            await driver.kill("web-1")
