"""Encrypted backups in windows of an NBD export: the suite of those in folders, and what the next recovery knows of one."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from proto.machine import MachineSpec, birth
from services.node.drivers.qemu import reads
from services.node.drivers.qemu.layers import backing_of
from tests.contract import test_backups_encrypted
from tests.contract.backup_rig import Saved
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.contract.recovery_rig import HOME_S_MAX, coming, fitted, running, slowly
from tests.contract.test_backups_encrypted import KEY, digest_of, given, take
from tests.contract.test_backups_encrypted import fewer as fewer
from tests.contract.test_backups_encrypted import saved as saved
from tests.contract.test_backups_nbd import rig as rig
from tests.contract.test_backups_nbd import server

MIB, LATE = 1 << 20, 46


test_a_running_vm_is_backed_up_recovered_and_merged_encrypted = (
    test_backups_encrypted.test_a_running_vm_is_backed_up_recovered_and_merged_encrypted
)
test_a_key_that_is_not_its_own_opens_nothing = test_backups_encrypted.test_a_key_that_is_not_its_own_opens_nothing


def spec_of(saved: Saved, number: int) -> MachineSpec:
    spec = saved.recovered("b1-1", key=KEY.id, file=f"web-1-data.r{number}.qcow2")
    return replace(spec, generation=number + 1)


async def standing(saved: Saved, number: int) -> MachineSpec:
    """Its second disk stands on the backup, and comes home as slowly as it can."""
    spec = spec_of(saved, number)
    await saved.vm.driver.start(spec)
    await guest_up(saved.vm.driver)
    await fitted(saved.vm.driver, replace(spec, born=birth(spec)))
    return spec


async def test_what_its_guest_touches_comes_first_the_next_time_and_the_rest_at_rest(
    rig: QemuRig, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, sh = saved.vm.driver, saved.vm.sh
    await given(driver)
    await saved.slow()
    await take(saved, key=KEY.id)
    was = await sh(digest_of("/dev/vdb", LATE))
    await driver.kill("web-1")
    kept = reads.place(rig.backups.parent, "web-1", "data")
    with slowly(monkeypatch):
        await standing(saved, 1)
        assert (await coming(driver)).first_mib == 0, "nothing is known"
        await sh(f"dd if=/dev/vdb of=/dev/null bs=64k count=4 skip={LATE * 16} iflag=direct 2>/dev/null")
        async with asyncio.timeout(HOME_S_MAX):
            while not any(at == LATE * MIB for at, _ in reads.read(kept).in_order(MIB, 64 * MIB)):
                await asyncio.sleep(0.05)  # the end of a round has no event
        await driver.kill("web-1")
        (disk,) = (await standing(saved, 2)).disks[1:]
        assert (await coming(driver)).first_mib > 0
        await asyncio.wait([running(driver).homing._first[1]])
        assert await sh(digest_of("/dev/vdb", LATE)) == was
        await driver.kill("web-1")
    own = rig.pool / "disks" / disk.file
    assert backing_of(own), "or nothing were left to come"
    await driver.merge_layers("web-1", (disk,))
    assert backing_of(own) == ""
    server(rig).end()
    await driver.start(replace(spec_of(saved, 3), disks=(saved.vm.spec.disks[0], replace(disk, layers=()))))
    await guest_up(driver)
    assert await sh(digest_of("/dev/vdb", LATE)) == was
