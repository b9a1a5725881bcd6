"""A full backup of a disk that stands on an image, or of a raw one, reads what is in it and passes over what is zero."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from proto.backups import BackupKind
from proto.machine import Freeze
from services.node.drivers.qemu.backups import filled
from services.node.drivers.qemu.backups.jobs import Blocks
from services.node.drivers.qemu.backups.sources import Source
from tests.contract.backup_rig import Saved, compare
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.contract.test_backups_qemu import RAW
from tests.contract.test_backups_qemu import rig as rig
from tests.contract.test_backups_qemu import saved as saved


def same(saved: Saved, backup: str) -> bool:
    """Also the raw one."""
    rig = saved.vm.rig
    assert isinstance(rig, QemuRig)
    raw = compare(saved.file(backup, "raw"), rig.pool / "disks" / RAW.file, "raw")
    return raw and all(saved.same_disk(backup, disk) for disk in saved.vm.spec.disks[:2])


async def test_of_a_disk_on_an_image_or_of_a_raw_one_only_what_is_in_it_is_read(saved: Saved) -> None:
    vm = saved.vm
    raw = replace(RAW, size_mib=512)
    vm.spec = replace(vm.spec, generation=2, disks=(*vm.spec.disks, raw))
    await vm.driver.kill("web-1")
    await vm.driver.start(replace(vm.spec, born=None))
    await guest_up(vm.driver)
    await vm.mounted()
    await vm.sh("dd if=/dev/urandom of=/dev/vdc bs=1M count=3 seek=300 conv=fsync 2>/dev/null")
    await vm.sh("dd if=/dev/urandom of=/dev/vdc bs=4k count=1 seek=7 conv=fsync 2>/dev/null")
    await vm.driver.pause("web-1")
    done = await saved.take(freeze=Freeze.NO)
    assert done.kind is BackupKind.FULL and 3 < done.copied_mib < 100, done.copied_mib
    left = await saved.running().do("query-named-block-nodes", {"flat": True})
    assert not [n["node-name"] for n in left if n["node-name"].startswith("backup")]
    assert [b for slot in (0, 1, 2) for b in await saved.bitmaps(slot)] == ["asv-default-b1-1"] * 3
    assert await saved.running().do("query-block-exports") == []
    await vm.driver.kill("web-1")
    assert same(saved, "b1-1")
    done = await saved.take(rests=True)
    assert done.kind is BackupKind.FULL and 3 < done.copied_mib < 100, done.copied_mib
    assert same(saved, "b1-2")


async def test_what_is_written_while_it_is_looked_at_is_in_it(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its place was looked at, and before the instant."""
    vm, find = saved.vm, filled.find

    async def found(blocks: Blocks, source: Source) -> None:
        await find(blocks, source)
        if source.disk.name == "root":
            await vm.sh("dd if=/dev/urandom of=/dev/vda bs=1M count=2 seek=250 conv=fsync 2>/dev/null")
            await saved.running().do("stop")

    monkeypatch.setattr(filled, "find", found)
    await saved.take(freeze=Freeze.NO)
    await vm.driver.kill("web-1")
    assert saved.same("b1-1")


async def test_where_qemu_serves_somebody_else_all_is_read(saved: Saved) -> None:
    await saved.running().do("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "another"}}})
    await saved.running().do("block-export-add", {"type": "nbd", "id": "theirs", "node-name": "disk1"})
    await saved.vm.driver.pause("web-1")
    done = await saved.take(freeze=Freeze.NO)
    assert done.copied_mib >= 256 and [e["id"] for e in await saved.running().do("query-block-exports")] == ["theirs"]
    await saved.vm.driver.kill("web-1")
    assert saved.same("b1-1")
