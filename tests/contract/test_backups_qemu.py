"""What may befall a backup that a real QEMU takes, and a real file of one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.backups import BackupKind
from proto.machine import Disk, DiskFormat, Freeze
from services.node.drivers import NotBackedUp
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.stores.settings import Nbd
from tests.contract.backup_rig import Saved, compare, info
from tests.contract.driver_rigs import QemuRig, guest_up, rig_of, told
from tests.contract.small_pool import small_pool
from tests.contract.store_rigs import store_rig
from tests.contract.test_driver_backups import flip, going
from tests.contract.test_driver_snapshots import Vm, mounted

RAW = Disk(name="raw", pool="default", file="web-1-raw.raw", size_mib=16, format=DiskFormat.RAW, serial="raw-1", slot=2)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        yield rig


@pytest.fixture
async def saved(rig: QemuRig) -> AsyncIterator[Saved]:
    async with mounted(rig) as running:
        yield Saved(running)


async def chain(saved: Saved, count: int, **more: bool) -> None:
    """So many backups, of which the newest is what is on the disks, at rest."""
    for number in range(1, count + 1):
        await saved.vm.write(f"word-{number}")
        await saved.vm.sh(f"dd if=/dev/zero of=/dev/vdb bs=1M seek={2 * number} count=3 conv=fsync 2>/dev/null")
        await saved.vm.sh(f"seq {100000 * number} 400000 | dd of=/dev/vdb bs=64k seek={40 * number} conv=fsync 2>/dev/null")
        if number == count:
            await saved.vm.driver.pause("web-1")
        await saved.take(f"b1-{number - 1}" if number > 1 else "", freeze=Freeze.NO, **more)
    await saved.vm.driver.kill("web-1")
    assert saved.same(f"b1-{count}")


# --- taking ---------------------------------------------------------------------------------------------------------------


async def test_a_guest_whose_backup_fails_goes_on(saved: Saved) -> None:
    """Its file systems stood still by then: another job holds the disk, and QEMU refuses all of it."""
    running = saved.running()
    await saved.take()
    await running.do("blockdev-add", {"driver": "null-co", "node-name": "sink", "size": 64 << 20})
    busy = {"job-id": "busy", "device": "disk1", "target": "sink", "sync": "full", "speed": 1}
    await running.do("blockdev-mirror", busy)
    with pytest.raises(NotBackedUp, match="transaction"):
        await saved.take("b1-1", freeze=Freeze.REQUIRE)
    assert not running.record.frozen
    await saved.vm.write("it goes on")
    await saved.vm.reads("it goes on")
    assert saved.names() == ["b1-1"] and await saved.left() == []
    await running.do("block-job-cancel", {"device": "busy", "force": True})


async def test_in_a_full_pool_nothing_is_left_and_it_says_how_full_it_is(rig: QemuRig, tmp_path: Path) -> None:
    with small_pool(tmp_path / "small", 24) as small:
        async with mounted(rig) as vm:
            await vm.driver.close()
            pools = {"default": rig.pool, "small": small.folder}
            vm.driver = QemuDriver("n1", rig.top / "n1", pools, share=2, cache=rig.top.parent / "probes")
            await vm.driver.open()
            saved = Saved(vm)
            await vm.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=40 conv=fsync 2>/dev/null")
            writes = "while :; do dd if=/dev/urandom of=/dev/vdb bs=1M count=40 conv=notrunc,fsync; done"
            await vm.sh(f"({writes}) >/dev/null 2>&1 & echo $! > /run/writer")
            changes = asyncio.ensure_future(anext(vm.driver.changes()))
            with pytest.raises(NotBackedUp, match=r"pool small is full: \d+ MiB of the backup were written, \d+ MiB of 24 MiB"):
                await saved.take(pool="small")
            assert not (small.folder / "backups" / "web-1").exists() and await saved.left() == []
            await vm.sh("kill $(cat /run/writer); while pidof dd >/dev/null; do sleep 0.1; done; sync")
            assert not changes.done() and [m.status for m in await vm.driver.open()] == ["running"], "its guest does not notice"
            changes.cancel()
            assert await saved.bitmaps() == []
            await vm.sh("dd if=/dev/zero of=/dev/vdb bs=1M count=40 conv=fsync 2>/dev/null")
            assert (await saved.take(pool="small")).kind is BackupKind.FULL
            rig.end()


async def test_what_an_earlier_agent_left_in_the_process_is_taken_away(saved: Saved) -> None:
    """It was killed while it took this very backup."""
    running = saved.running()
    order = saved.order()
    await running.do("blockdev-add", {"driver": "null-co", "node-name": "backup1-file", "size": 64 << 20})
    await running.do("blockdev-add", {"driver": "raw", "node-name": "backup1", "file": "backup1-file"})
    bitmap = {"node": "disk1", "name": "asv-default-b1-1", "persistent": True}
    job = {"job-id": "backup1", "device": "disk1", "target": "backup1", "sync": "full", "speed": 1}
    actions = [{"type": "block-dirty-bitmap-add", "data": bitmap}, {"type": "blockdev-backup", "data": job}]
    await running.do("transaction", {"actions": actions})
    making = saved.folder(".making-b1-1")
    making.mkdir(parents=True)
    (making / "half").touch()
    await saved.vm.again()
    assert await saved.left() == [], "it is ended before anything is ordered"
    done = await saved.taken(order)
    assert done.kind is BackupKind.FULL and saved.names() == ["b1-1"]
    assert await saved.left() == [] and await saved.bitmaps() == ["asv-default-b1-1"]


async def test_the_rate_is_kept_and_shared_by_those_that_go_on(saved: Saved) -> None:
    await saved.take()
    await saved.vm.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=12 conv=fsync 2>/dev/null")
    done = await saved.take("b1-1", rate_mibps=8)
    assert 900 < done.took_ms < 6_000, done.took_ms


async def test_a_disk_that_is_to_be_unplugged_is_let_go_of(saved: Saved) -> None:
    vm = saved.vm
    await saved.slow()
    task = await going(saved, saved.order(rate_mibps=1))
    has = await vm.fit(replace(vm.spec, disks=vm.spec.disks[:1], leaving=(1,)))
    assert has.misfits == (), has
    with pytest.raises(NotBackedUp, match="slot 1 is to be unplugged"):
        await task
    assert saved.names() == []


async def test_what_a_killed_process_had_in_its_files_is_not_believed(saved: Saved) -> None:
    """The bitmap came with the file into that process: QEMU marks it as long as one has it."""
    await saved.take()
    await saved.vm.started(2)
    await guest_up(saved.vm.driver)
    changes = saved.vm.driver.changes()
    await saved.vm.rig.crash(saved.vm.driver, "web-1")
    await told(changes, "gone")
    await saved.vm.started(3)
    second = await saved.take("b1-1")
    assert second.kind is BackupKind.FULL and "is not known, as its process was killed" in second.sentence
    assert await saved.bitmaps() == ["asv-default-b1-2"], "and it is gone"


async def test_a_raw_disk_is_known_until_its_process_ends(saved: Saved) -> None:
    vm = saved.vm
    await vm.fit(replace(vm.spec, disks=(*vm.spec.disks, RAW)))
    await vm.sh("until [ -b /dev/vdc ]; do sleep 0.1; done; echo raw | dd of=/dev/vdc conv=fsync 2>/dev/null")
    await saved.take()
    await vm.sh("echo more | dd of=/dev/vdc bs=1M seek=4 conv=fsync 2>/dev/null")
    await vm.driver.pause("web-1")
    second = await saved.take("b1-1", freeze=Freeze.NO)
    assert second.kind is BackupKind.INCREMENTAL, second.sentence
    await vm.driver.kill("web-1")
    assert compare(saved.file("b1-2", "raw"), _disk(saved, RAW), "raw") and saved.same_disk("b1-2", vm.spec.disks[1])
    third = await saved.take("b1-2", rests=True)
    assert third.kind is BackupKind.FULL and "disk raw does not know" in third.sentence
    assert compare(saved.file("b1-3", "raw"), _disk(saved, RAW), "raw")


def _disk(saved: Saved, disk: Disk) -> Path:
    assert isinstance(saved.vm.rig, QemuRig)
    return saved.vm.rig.pool / "disks" / disk.file


async def test_a_disk_that_grew_is_backed_up_in_full(saved: Saved) -> None:
    vm = saved.vm
    await saved.take()
    grown = replace(vm.spec.disks[1], size_mib=80)
    has = await vm.fit(replace(vm.spec, disks=(vm.spec.disks[0], grown)))
    assert has.misfits == (), has
    second = await saved.take("b1-1")
    assert second.kind is BackupKind.FULL and "the disk data has another size" in second.sentence
    assert (second.disks[1].size_mib, info(saved.file("b1-2"))["virtual-size"]) == (80, 80 << 20)
    assert (await saved.take("b1-2")).kind is BackupKind.INCREMENTAL


async def test_of_a_vm_at_rest_whose_disks_stand_on_layers_all_is_read(saved: Saved) -> None:
    vm = saved.vm
    await vm.write("below")
    await vm.take()
    await vm.write("above")
    await vm.driver.kill("web-1")
    first = await saved.take(rests=True)
    assert first.kind is BackupKind.FULL and saved.same("b1-1")
    assert (await saved.take("b1-1", rests=True)).kind is BackupKind.INCREMENTAL
    assert saved.same("b1-2")


async def test_one_at_rest_whose_qemu_is_killed_leaves_nothing_and_the_vm_starts(saved: Saved) -> None:
    await saved.slow()
    await saved.vm.driver.kill("web-1")
    task = await going(saved, saved.order(rests=True, rate_mibps=1))
    (reader,) = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _reads(path, saved)]
    os.kill(reader, signal.SIGKILL)
    with pytest.raises(NotBackedUp, match="given up: the QEMU that read its disks ended"):
        await task
    assert saved.names() == []
    await saved.vm.started(2)
    assert (await saved.take()).kind is BackupKind.FULL


def _reads(cmdline: Path, saved: Saved) -> bool:
    """It is the one without a machine that has this VM's lock open."""
    try:
        if b"-machine\0none" not in cmdline.read_bytes():
            return False
        assert isinstance(saved.vm.rig, QemuRig)
        lock = str(saved.vm.rig.pool / "leases" / "web-1.running")
        return any(str(fd.readlink()) == lock for fd in (cmdline.parent / "fd").iterdir())
    except OSError:
        return False


async def test_uefi_variables_go_along_and_are_verified(saved: Saved) -> None:
    vm = saved.vm
    await vm.driver.kill("web-1")
    variables = _disk(saved, replace(RAW, file="web-1-root.vars"))
    variables.write_bytes(os.urandom(64 << 10))
    vm.spec = replace(vm.spec, disks=(replace(vm.spec.disks[0], vars=variables.name), vm.spec.disks[1]))
    (root, data) = (await saved.take(rests=True)).disks
    copy = saved.folder("b1-1") / root.vars
    assert copy.read_bytes() == variables.read_bytes() and data.vars == "" and await saved.damaged("b1-1") == {}
    flip(copy, 4711)
    assert root.vars in (await saved.damaged("b1-1"))["b1-1"]


async def test_a_disk_of_a_pool_that_is_no_folder_is_read(rig: QemuRig, tmp_path: Path) -> None:
    """Its process knows what was written since, as of any raw disk."""
    (tmp_path / "net").mkdir()
    with store_rig("nbd", tmp_path / "net", ("far",), 16) as far:
        pools = {"default": rig.pool, **far.pools()}
        driver = QemuDriver("n1", rig.top / "n1", pools, share=2, cache=rig.top.parent / "probes", remotes=far.remotes())
        await driver.open()
        disk = Disk(name="far", pool="other", file="far", size_mib=16, format=DiskFormat.RAW, serial="far", slot=1, made=True)
        spec = replace(rig.spec(), disks=(*rig.spec().disks, disk))
        await driver.start(spec)
        await guest_up(driver)
        saved, raw = Saved(Vm(rig, driver, spec)), tmp_path / "net" / "exports" / "far"
        await saved.take()
        await saved.vm.sh("seq 1 300000 | dd of=/dev/vdb bs=64k conv=fsync 2>/dev/null")
        second = await saved.take("b1-1")
        assert second.kind is BackupKind.INCREMENTAL, second.sentence
        await driver.kill("web-1")
        assert compare(saved.file("b1-2", "far"), raw, "raw")
        await saved.take(rests=True)
        assert compare(saved.file("b1-3", "far"), raw, "raw")
        await driver.close()


async def test_a_pool_that_is_no_folder_takes_no_backups(rig: QemuRig) -> None:
    async with mounted(rig) as vm:
        await vm.driver.close()
        (rig.top / "leases").mkdir()
        pools = {"default": rig.pool, "net": rig.top / "leases"}
        far = {"net": Nbd(socket="/nowhere")}
        vm.driver = QemuDriver("n1", rig.top / "n1", pools, share=2, cache=rig.top.parent / "probes", remotes=far)
        await vm.driver.open()
        saved = Saved(vm)
        with pytest.raises(NotBackedUp, match="pool net is nbd, and names no export for backups: add backups=EXPORT"):
            await saved.take(pool="net")
        with pytest.raises(NotBackedUp, match="has no pool 'away'"):
            await saved.take(pool="away")
        await vm.driver.kill("web-1")


# --- what is there ----------------------------------------------------------------------------------------------------------


async def test_a_removal_cut_short_anywhere_leaves_all_others_whole(saved: Saved, tmp_path: Path) -> None:
    await cut_short(saved, tmp_path, 0.03)


async def cut_short(saved: Saved, tmp_path: Path, more_s: float) -> None:
    """Cancelled later and later, until it is done: whatever is left is sound, and holds what it held."""
    await chain(saved, 4)
    copies = {name: saved.copied(name, tmp_path / name) for name in ("b1-1", "b1-3", "b1-4")}
    order, cuts, after_s = saved.removal("b1-2"), 0, 0.0
    while True:
        task = asyncio.ensure_future(saved.vm.driver.remove_backup(order))
        await asyncio.wait({task}, timeout=after_s)
        if task.done():
            break
        task.cancel()
        await asyncio.wait({task})
        cuts, after_s = cuts + 1, after_s + more_s
        for name, files in copies.items():
            assert saved.holds(name, files), (name, after_s)
    saved.removed(order, task.result())
    assert cuts > 3 and all(saved.holds(name, files) for name, files in copies.items())
    assert await saved.damaged("b1-4") == {} and saved.names() == ["b1-1", "b1-3", "b1-4"]
    assert [path.name for path in saved.folder("b1-3").iterdir() if path.suffix == ".new"] == []


async def test_what_was_done_of_a_removal_by_an_agent_that_was_killed_is_gone_on_with(saved: Saved, tmp_path: Path) -> None:
    """One file was in its place, the other not, and no manifest said so."""
    await chain(saved, 3)
    former = shutil.copytree(saved.folder("b1-2"), tmp_path / "former")
    removed = shutil.copytree(saved.folder("b1-1"), tmp_path / "removed")
    order = saved.removal("b1-1")
    heirs = await saved.vm.driver.remove_backup(order)
    shutil.copytree(removed, saved.folder("b1-1"))
    back = saved.folder("b1-2") / "web-1-data.b1-2.qcow2"
    back.unlink()
    shutil.copy2(former / back.name, back)
    shutil.copy2(former / "manifest.json", saved.folder("b1-2") / "manifest.json")
    again = await saved.vm.driver.remove_backup(order)
    assert [d.disk for d in again["b1-2"]] == [d.disk for d in heirs["b1-2"]] and again["b1-2"][0] == heirs["b1-2"][0]
    saved.removed(order, again)
    assert saved.names() == ["b1-2", "b1-3"] and await saved.damaged("b1-3") == {} and saved.same("b1-3")


async def test_a_removal_that_is_refused_has_changed_nothing(saved: Saved) -> None:
    await chain(saved, 3)
    before = {path: path.read_bytes() for path in saved.folder("").rglob("*") if path.is_file()}
    hidden = saved.file("b1-2", "data").rename(saved.folder("b1-2") / "hidden")
    with pytest.raises(NotBackedUp, match="is not there"):
        await saved.remove("b1-1")
    hidden.rename(saved.file("b1-2", "data"))
    flip(saved.file("b1-1", "data"), 70_000)
    with pytest.raises(NotBackedUp, match="b1-1 is damaged"):
        await saved.remove("b1-1")
    flip(saved.file("b1-1", "data"), 70_000)
    assert {path: path.read_bytes() for path in saved.folder("").rglob("*") if path.is_file()} == before


async def test_what_was_compressed_stays_so_when_it_is_written_anew(saved: Saved) -> None:
    await chain(saved, 3, compress=True)
    bytes = sum(disk.bytes for name in ("b1-1", "b1-2") for disk in saved.told[name])
    await saved.remove("b1-1")
    assert saved.same("b1-3") and sum(disk.bytes for disk in saved.told["b1-2"]) < bytes * 1.2
    data = info(saved.file("b1-2"))
    assert data["format-specific"]["data"]["compression-type"] == "zstd" and "backing-filename" not in data


async def test_no_byte_of_a_file_can_be_another_unseen(saved: Saved) -> None:
    await chain(saved, 2)
    for disk in ("root", "data"):
        file = saved.file("b1-1", disk)
        size = file.stat().st_size
        for at in (0, 8, 105, 65_536, size // 3, size // 2, size - 1):
            flip(file, at)
            assert (await saved.damaged("b1-2")).keys() >= {"b1-1"}, (disk, at)
            flip(file, at)
    assert await saved.damaged("b1-2") == {}
    with saved.file("b1-1").open("ab") as longer:
        longer.write(b"\0")
    assert "bytes, and" in (await saved.damaged("b1-2"))["b1-1"]
    os.truncate(saved.file("b1-1"), saved.file("b1-1").stat().st_size - 1)
    command = ["qemu-img", "rebase", "-u", "-b", "../b1-9/x.qcow2", "-F", "qcow2", str(saved.file("b1-2"))]
    subprocess.run(command, check=True)
    assert "which is none of its backups" in (await saved.damaged("b1-2"))["b1-2"]


async def test_nobody_but_the_agent_reads_a_backup(saved: Saved) -> None:
    await chain(saved, 1)
    assert [oct(saved.folder(name).stat().st_mode & 0o777) for name in ("", "b1-1")] == ["0o700", "0o700"]
    assert {oct(path.stat().st_mode & 0o777) for path in saved.folder("b1-1").glob("*.qcow2")} == {"0o400"}
