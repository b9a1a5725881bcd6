"""What a guest touches first is noted while it runs on a backup, and comes home first the next time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.machine import MachineSpec
from services.node.access_map import AccessMap, made
from services.node.drivers.qemu import reads
from services.node.drivers.qemu.backups.layout import Shelf
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.nbd_cache import Export
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.contract.recovery_rig import (
    FULL,
    HOME_S_MAX,
    NEWER,
    backed_up,
    coming,
    fitted,
    recovered,
    running,
    sh,
    slowly,
    spec_of,
)
from tests.contract.test_recovery_qemu import driver as driver
from tests.contract.test_recovery_qemu import rig as rig

MIB = 1 << 20
LATE, EARLY = 60, 30
"""MiB of the disk: what lies later is read earlier"""


def kept(rig: QemuRig) -> Path:
    return reads.place(rig.pool, "old-1", "data")


async def noted(rig: QemuRig, driver: QemuDriver, rounds: int) -> AccessMap:
    """So many rounds have ended."""
    async with asyncio.timeout(HOME_S_MAX):
        while True:
            one = running(driver).homing._homes.get(1)
            if one is not None and len(one.reads._rounds) >= rounds:
                return reads.read(kept(rig))
            await asyncio.sleep(0.02)  # the end of a round has no event


async def read(rig: QemuRig, driver: QemuDriver, at_mib: int) -> None:
    await sh(rig, driver, f"dd if=/dev/vdb of=/dev/null bs=64k count=4 skip={at_mib * 16} iflag=direct 2>/dev/null")


async def drilled(rig: QemuRig, driver: QemuDriver, generation: int = 1) -> MachineSpec:
    """As a drill runs: its data hardly comes home."""
    spec = spec_of(rig, generation, replace(recovered(rig), file=f"web-1-data.d{generation}.qcow2", home_mibps=1))
    await driver.start(replace(spec, born=None))
    await guest_up(driver)
    return spec


async def test_what_a_drill_touches_comes_home_first(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    with slowly(monkeypatch):
        spec = await drilled(rig, driver)
        await fitted(driver, spec)
        await noted(rig, driver, 1)
        await read(rig, driver, LATE)
        seen = len(running(driver).homing._homes[1].reads._rounds)
        await noted(rig, driver, seen + 1)
        await read(rig, driver, EARLY)
        found = await noted(rig, driver, seen + 3)
        assert (await driver.copies())[0].first_mib == 0, "a drill is what a recovery is without it"
        await driver.kill("web-1")
        order = [at // MIB for at, _ in found.in_order(MIB, 128 * MIB)]
        assert found.of == "web-1-data.d1.qcow2" and [at for at in order if at >= 16] == [LATE, EARLY], order
        fetched = _watched(monkeypatch)
        await driver.start(replace(spec := spec_of(rig, 2), born=None))
        await fitted(driver, spec)
        await noted(rig, driver, 2)
        assert (await driver.copies())[0].first_mib == -(-found.bytes // MIB) > 0
        first = running(driver).homing._first[1]
        await asyncio.wait([first])
        behind = dict.fromkeys(at // MIB for at in fetched if at >= 16 * MIB)
        assert list(behind) == [LATE, EARLY], "and nothing else is fetched meanwhile"
        assert {at for at in await _own(driver) if at >= 16} == {LATE, EARLY}
        await driver.kill("web-1")


def _watched(patch: pytest.MonkeyPatch) -> list[int]:
    """What is fetched by readers, as it is asked for."""
    fetched: list[int] = []
    ask = Export.copy_up

    async def told(export: Export, at: int, length: int) -> None:
        fetched.append(at)
        await ask(export, at, length)

    patch.setattr(Export, "copy_up", told)
    return fetched


async def _own(driver: QemuDriver) -> set[int]:
    """MiB of the disk of which something lies in its own file."""
    export = running(driver).homing._homes[1]._export
    assert export is not None
    at, found = 0, set[int]()
    for size, depth in await export.extents(0, export.size):
        found |= set(range(at // MIB, -(-(at + size) // MIB))) if depth == 1 else set()
        at += size
    return found


async def test_what_the_job_and_the_readers_copy_is_not_taken_for_the_guests(rig: QemuRig, driver: QemuDriver) -> None:
    backed_up(rig)
    spec = spec_of(rig)
    await driver.start(replace(spec, born=None))
    await fitted(driver, spec)
    async with asyncio.timeout(HOME_S_MAX):
        while (await fitted(driver, spec)).misfits:
            pass
    assert reads.read(kept(rig)).bytes <= 4 * MIB, "64 MiB came home, and its guest touched next to nothing"


async def test_a_map_that_is_wrong_or_cannot_be_read_changes_the_order_only(rig: QemuRig, driver: QemuDriver) -> None:
    backed_up(rig)
    for generation, text in enumerate(("{", '{"of":"x","rounds":[[[-1,5]]]}', '{"of":"x","rounds":[[[0,99999999999]]]}'), 1):
        kept(rig).write_text(text)
        spec = spec_of(rig, generation, replace(recovered(rig), file=f"web-1-data.w{generation}.qcow2"))
        await driver.start(replace(spec, born=None))
        async with asyncio.timeout(HOME_S_MAX):
            while (await fitted(driver, spec)).misfits:
                pass
        assert dict((await fitted(driver, spec)).chains)[1] == (spec.disks[1].file,)
        await driver.kill("web-1")


async def test_a_disk_that_a_process_ran_on_before_is_not_looked_at_again(
    rig: QemuRig, driver: QemuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(rig)
    with slowly(monkeypatch):
        spec = await drilled(rig, driver)
        await fitted(driver, spec)
        await read(rig, driver, LATE)
        await noted(rig, driver, len(running(driver).homing._homes[1].reads._rounds) + 1)
        await driver.kill("web-1")
        before = kept(rig).read_bytes()
        await driver.start(replace(spec, generation=2, born=None))
        await fitted(driver, replace(spec, generation=2))
        await coming(driver)
        one = running(driver).homing._homes[1]
        assert one.counted and not one.reads.records and kept(rig).read_bytes() == before
        await driver.kill("web-1")




def test_it_goes_with_the_last_backup(tmp_path: Path) -> None:
    shelf, path = Shelf(tmp_path, "old-1"), reads.place(tmp_path, "old-1", "data")
    for backup in (FULL, NEWER):
        shelf.folder(backup).mkdir(parents=True)
    reads.write(path, made("d", [[(0, MIB)]]))
    shelf.remove(FULL)
    assert reads.read(path).bytes == MIB
    shelf.remove(NEWER)
    assert not shelf.path.exists()
