"""A guest that OVMF boots from a disk, and its variables: through restarts, moves, and the end of the VM. Real processes only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.machine import Firmware, MachineSpec
from services.node.drivers import CannotStart, Locked, Move
from services.node.drivers.qemu.driver import QemuDriver
from services.node.host import ovmf
from tests.contract.driver_rigs import QemuRig
from tests.contract.test_driver_moves import over
from tests.guests import tiny_image

FOUND = ovmf.find()
pytestmark = [
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"),
    pytest.mark.skipif(FOUND is None, reason="there is no OVMF on this machine"),
]

BOOT_S_MAX = 120.0
VARS = "web-1-root-vars.fd"
VARIABLE = "/sys/firmware/efi/efivars/Kept-6c0e5a4e-3f1d-5d5a-9d7e-0f6f3f0a1b2c"
MOUNT = "modprobe efivarfs; grep -q efivarfs /proc/mounts || mount -t efivarfs e /sys/firmware/efi/efivars"
WRITE = rf"{MOUNT}; printf '\007\000\000\000%s' first > {VARIABLE} && sync"
READ = f"{MOUNT}; tail -c +5 {VARIABLE}; echo; ls /sys/firmware/efi/efivars | grep -c ^Boot0"
STARTUP = "fs0:\r\nvmlinuz.efi initrd=\\initrd console=ttyS0 panic=0 no_timer_check cryptomgr.notests\r\n"


class UefiRig(QemuRig):
    """Its disk stands on an image that firmware boots: a FAT file system with the tiny guest's kernel (an EFI program) on it."""

    def __init__(self, top: Path, tiny: Path) -> None:
        super().__init__(top, tiny)
        files, image = top / "efi", self.pool / "images" / "efi"
        files.mkdir()
        image.mkdir()
        shutil.copy(tiny / "vmlinuz", files / "vmlinuz.efi")
        shutil.copy(tiny / "initrd", files / "initrd")
        (files / "startup.nsh").write_text(STARTUP, encoding="ascii")
        fat = f'json:{{"driver":"raw","file":{{"driver":"vvfat","dir":"{files}","fat-type":16}}}}'
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", fat, str(image / "disk.qcow2")], check=True)

    def spec(self, vm: str = "web-1", generation: int = 1) -> MachineSpec:
        spec = super().spec(vm, generation)
        shape = replace(spec.shape, firmware=Firmware.UEFI, memory_mib=320)
        disk = replace(spec.disks[0], image="efi", size_mib=512, vars=VARS)
        return replace(spec, shape=shape, disks=(disk,), boot=None, boot_image="")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[UefiRig]:
    made = UefiRig(tmp_path, tiny_image())
    yield made
    made.end()


@pytest.fixture
async def here(rig: UefiRig) -> AsyncIterator[QemuDriver]:
    made = rig.driver("n1")
    await made.open()
    yield made
    await made.close()


async def said(driver: QemuDriver, script: str) -> str:
    """What the guest answers, once it is up."""
    done = await driver.exec("web-1", ("sh", "-c", script), b"", BOOT_S_MAX)
    assert (done.exit_code, done.error) == (0, ""), done
    return done.stdout.decode()


async def move(source: QemuDriver, target: QemuDriver, spec: MachineSpec, out: Move, way: Move) -> None:
    changes = source.changes()
    waiting = await target.receive(spec, way)
    await source.send("web-1", waiting.address, out)
    assert (await over(changes)).status == "sent"
    await source.kill("web-1")
    await target.activate("web-1")
    await target.resume("web-1")


async def test_a_guest_is_booted_and_its_variables_last(rig: UefiRig, here: QemuDriver) -> None:
    store, template = rig.pool / "disks" / VARS, FOUND.template.read_bytes() if FOUND else b""
    there = rig.driver("n2")
    await there.open()
    assert Firmware.UEFI in (await here.capabilities()).firmware
    await here.start(rig.spec())
    assert "efi" in await said(here, "ls /sys/firmware")
    await said(here, WRITE)
    assert store.stat().st_size == len(template) and store.read_bytes() != template
    disk = rig.pool / "disks" / rig.spec().disks[0].file
    assert (store.stat().st_uid, store.stat().st_mode) == (disk.stat().st_uid, disk.stat().st_mode)
    with pytest.raises(Locked):
        await here.remove_disks("web-1", rig.spec().disks)
    # another node that reaches the pool: the file is the same one
    await move(here, there, rig.spec(generation=2), Move(), Move())
    first, entries = (await said(there, READ)).split()
    assert first == "first" and int(entries) > 0
    await said(there, WRITE.replace("Kept", "More"))  # what is there already, Linux protects
    await there.kill("web-1")
    # a start anew
    await here.start(rig.spec(generation=3))
    assert (await said(here, READ)).split()[0] == "first"
    assert (await said(here, READ.replace("Kept", "More"))).split()[0] == "first"
    await here.kill("web-1")
    await here.remove_disks("web-1", rig.spec().disks)
    assert rig.disks("n1") == []
    await there.close()


async def test_variables_go_along_to_a_pool_of_another_node(rig: UefiRig, here: QemuDriver) -> None:
    there = rig.apart("n2")
    await there.open()
    can, could = await here.capabilities(), await there.capabilities()
    await here.start(rig.spec())
    await said(here, WRITE)
    spec = rig.spec(generation=2)
    disk = replace(spec.disks[0], file="web-1-disk0.2.qcow2", vars="web-1-disk0.2-vars.fd")
    spec = replace(spec, disks=(disk,))
    out, way = Move(rig.spec().disks, can.pool_ids, 2, could.move_key), Move(spec.disks, can.pool_ids, 2, can.move_key)
    await there.receive(spec, way)
    await there.kill("web-1")  # one that nobody comes to leaves nothing it needs: the next is made anew
    await move(here, there, spec, out, way)
    await here.remove_disks("web-1", rig.spec().disks)
    assert (rig.disks("n1"), rig.disks("n2")) == ([], sorted([disk.file, disk.vars]))
    assert (await said(there, READ)).split()[0] == "first"
    assert b"f\0i\0r\0s\0t" not in (rig.pool_of("n2") / "disks" / disk.vars).read_bytes()
    assert b"first" in (rig.pool_of("n2") / "disks" / disk.vars).read_bytes()
    await there.kill("web-1")
    await there.start(replace(spec, generation=3, disks=(replace(disk, made=True),)))
    assert (await said(there, READ)).split()[0] == "first"
    await there.kill("web-1")
    await there.close()


async def test_what_cannot_be_started_says_why_and_leaves_nothing(rig: UefiRig, here: QemuDriver) -> None:
    bare = replace(rig.spec(), disks=(replace(rig.spec().disks[0], vars=""),))
    with pytest.raises(CannotStart, match="no disk beside which"):
        await here.start(bare)
    (rig.pool / "disks" / VARS).write_bytes(b"of another firmware")
    with pytest.raises(CannotStart, match="19 bytes"):
        await here.start(rig.spec())
    without = rig.driver("n2")
    await without.open()
    without._fleet.host = replace(without._fleet.host, ovmf=None)
    assert Firmware.UEFI not in (await without.capabilities()).firmware
    with pytest.raises(CannotStart, match="n2 has none: install OVMF"):
        await without.start(rig.spec(generation=2))
    assert rig.left_over("n1") == rig.left_over("n2") == []
    await without.close()
