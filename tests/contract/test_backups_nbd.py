"""Backups in windows of an NBD export, and VMs that run on them: the suites of those in folders, and what is only here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.backups import BackupKind
from proto.machine import Freeze
from services.node.drivers import CannotStart, NotBackedUp
from services.node.drivers.qemu.backups import claims, watching
from services.node.drivers.qemu.backups.windows import CLUSTER
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.stores.nbd_line import Line
from services.node.drivers.qemu.stores.settings import Nbd
from tests.contract import test_backups_qemu, test_driver_backups, test_driver_recovery
from tests.contract.backup_rig import Saved
from tests.contract.driver_rigs import QemuRig, guest_up, rig_of
from tests.contract.recovery_rig import backed_up, holds, home, sh, spec_of
from tests.contract.small_pool import small_pool
from tests.contract.store_rigs import NbdRig
from tests.contract.test_backups_qemu import cut_short
from tests.contract.test_driver_backups import going
from tests.contract.test_driver_backups import saved as saved
from tests.contract.test_driver_recovery import driver as driver
from tests.contract.test_driver_snapshots import mounted


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for rig in rig_of("qemu-nbd", tmp_path):
        assert isinstance(rig, QemuRig)
        yield rig


# --- the suites of folders ------------------------------------------------------------------------------------------------

test_all_disks_are_backed_up_and_then_what_was_written_since = (
    test_driver_backups.test_all_disks_are_backed_up_and_then_what_was_written_since
)
test_one_given_up_leaves_nothing_and_loses_nothing = test_driver_backups.test_one_given_up_leaves_nothing_and_loses_nothing
test_what_cannot_go_beside_one_ends_it_and_it_says_why = test_driver_backups.test_what_cannot_go_beside_one_ends_it_and_it_says_why
test_those_that_stand_on_a_removed_one_hold_what_they_held = (
    test_driver_backups.test_those_that_stand_on_a_removed_one_hold_what_they_held
)
test_damage_is_found_and_is_not_merged = test_driver_backups.test_damage_is_found_and_is_not_merged
test_one_at_rest_whose_qemu_is_killed_leaves_nothing_and_the_vm_starts = (
    test_backups_qemu.test_one_at_rest_whose_qemu_is_killed_leaves_nothing_and_the_vm_starts
)
test_a_guest_runs_on_a_backup_and_its_data_comes_home = test_driver_recovery.test_a_guest_runs_on_a_backup_and_its_data_comes_home
test_two_are_recovered_from_one_backup_at_once = test_driver_recovery.test_two_are_recovered_from_one_backup_at_once
test_a_backup_that_is_not_whole_is_refused_by_its_name = (
    test_driver_recovery.test_a_backup_that_is_not_whole_is_refused_by_its_name
)
test_a_process_that_dies_while_it_copies_is_started_again_and_the_copy_goes_on = (
    test_driver_recovery.test_a_process_that_dies_while_it_copies_is_started_again_and_the_copy_goes_on
)
test_the_next_agent_sees_to_a_copy_that_goes_on = test_driver_recovery.test_the_next_agent_sees_to_a_copy_that_goes_on
test_what_stands_on_a_backup_comes_home_at_rest = test_driver_recovery.test_what_stands_on_a_backup_comes_home_at_rest


# --- what is only here ------------------------------------------------------------------------------------------------------


def server(rig: QemuRig) -> NbdRig:
    assert rig.far is not None
    return rig.far


def claimed(rig: QemuRig) -> int:
    """Bytes of the export."""
    return sum(claim.size for claim in claims.all_of(rig.backups.parent).values())


async def test_a_removal_cut_short_now_and_then_leaves_all_others_whole(saved: Saved, tmp_path: Path) -> None:
    await cut_short(saved, tmp_path, 0.2)


async def test_a_window_is_as_large_as_what_is_in_it_and_is_given_again(rig: QemuRig, saved: Saved) -> None:
    full = await saved.take()
    assert claimed(rig) == sum(disk.bytes for disk in full.disks) < 128 << 20, "and not as the disks are"
    nothing = (await saved.take("b1-1", freeze=Freeze.NO)).disks[1]
    assert nothing.bytes == 4 * CLUSTER, "of a disk that nobody wrote to: no more than its tables"
    await saved.vm.write("more")
    await saved.take("b1-2")
    for backup in ("b1-1", "b1-2"):
        await saved.remove(backup)
    assert claimed(rig) == sum(disk.bytes for disk in saved.told["b1-3"])
    await saved.remove("b1-3")
    assert claimed(rig) == 0 and claims.cooling(rig.backups.parent, 0) == []
    at = server(rig).remotes()["other"]
    assert isinstance(at, Nbd)
    with Line(at, "asv") as line:
        assert line.read(0, 16).startswith(b'{"asv_backups":1')


async def test_a_guest_does_not_notice_that_the_server_hangs_and_the_backup_fails(rig: QemuRig, saved: Saved) -> None:
    """What it overwrites is copied first: its writes wait until QEMU's connection is cut."""
    vm = saved.vm
    await saved.take()
    await saved.slow()
    task = await going(saved, saved.order("b1-1", rate_mibps=1, freeze=Freeze.NO))
    server(rig).hang()
    try:
        began = time.monotonic()
        await vm.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=40 conv=notrunc,fsync 2>/dev/null")
        assert time.monotonic() - began < watching.EVERY_S + watching.ANSWERS_S_MAX + 8
        with pytest.raises(NotBackedUp, match=r"the NBD server at .* (has not answered for|timed out)"):
            await task
        assert [m.status for m in await vm.driver.open()] == ["running"] and await saved.left() == []
    finally:
        server(rig).go_on()
    assert [name for name in saved.names() if not name.startswith(".")] == ["b1-1"]
    done = await saved.take("b1-1")
    assert done.kind is BackupKind.INCREMENTAL and saved.names() == ["b1-1", "b1-3"], "nothing is lost by it"
    await vm.driver.pause("web-1")
    await saved.take("b1-3", freeze=Freeze.NO)
    await vm.driver.kill("web-1")
    assert saved.same("b1-4") and await saved.damaged("b1-4") == {}


async def test_a_server_that_dies_ends_the_backup_alone(rig: QemuRig, saved: Saved) -> None:
    vm = saved.vm
    await saved.slow()
    task = await going(saved, saved.order(rate_mibps=1, freeze=Freeze.NO))
    server(rig).restart()
    await vm.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=40 conv=notrunc,fsync 2>/dev/null")
    with pytest.raises(NotBackedUp):
        await task
    assert await saved.left() == [] and saved.names() == []
    assert (await saved.take()).kind is BackupKind.FULL


async def test_a_server_that_is_full_ends_the_backup_alone(tmp_path: Path) -> None:
    with small_pool(tmp_path / "files", 24) as files:
        for rig in rig_of("qemu-nbd", tmp_path, files.folder):
            assert isinstance(rig, QemuRig)
            async with mounted(rig) as vm:
                saved = Saved(vm)
                await vm.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=40 conv=fsync 2>/dev/null")
                with pytest.raises(NotBackedUp, match=r"pool other is full: \d+ MiB of the export asv .* were claimed"):
                    await saved.take()
                assert await saved.left() == [] and saved.names() == [] and claimed(rig) == 0
                await vm.sh("dd if=/dev/zero of=/dev/vdb bs=1M count=40 conv=fsync 2>/dev/null")
                assert (await saved.take()).kind is BackupKind.FULL, "and what it had written is given back"


async def test_an_export_that_is_too_small_or_anothers_is_refused(rig: QemuRig, saved: Saved) -> None:
    export = server(rig).files / "asv"
    for begin, words in (
        (b"\xebsomebody's file system", "holds something that is no backup"),
        (b'{"asv_backups":1,"pool":"0123456789abcdef"}', "has backups of the pool 0123456789abcdef"),
    ):
        with export.open("r+b") as opened:
            opened.write(begin)
        with pytest.raises(NotBackedUp, match=words):
            await saved.take()
        with export.open("r+b") as opened:
            assert opened.read(len(begin)) == begin, "nothing was written to it"
            opened.seek(0)
            opened.write(bytes(4096))
    assert saved.names() == [] and await saved.left() == []
    assert (await saved.take()).kind is BackupKind.FULL


async def test_a_recovered_guest_waits_for_a_server_that_comes_back(rig: QemuRig, driver: QemuDriver) -> None:
    backed_up(rig)
    spec = spec_of(rig)
    server(rig).end()
    with pytest.raises(CannotStart, match="where the backup b1-2 of old-1 lies, does not answer"):
        await driver.start(replace(spec, born=None))
    server(rig).restart()
    await driver.start(replace(spec, born=None))
    await guest_up(driver)
    server(rig).restart()
    await sh(rig, driver, "echo 3 > /proc/sys/vm/drop_caches")
    await holds(rig, driver)
    await home(driver, spec)
    await holds(rig, driver)
