"""Images made of disks: one suite for both drivers. That they hold what the disk held is looked at from inside another guest."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.images import DiskSource
from proto.machine import DiskFormat, Freeze
from services.node.drivers import BadImage, Locked
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.driver import QemuDriver
from tests.contract.driver_rigs import QemuRig, Rig, guest_up, rig_of
from tests.contract.test_driver_snapshots import DATA, Vm, leaving, mounted

OPEN_S_MAX = 20.0


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def vm(rig: Rig) -> AsyncIterator[Vm]:
    async with mounted(rig) as running:
        yield running


def held(vm: Vm, number: int) -> DiskSource:
    """What the newest snapshot holds of a disk."""
    disk = vm.spec.disks[number]
    first, *rest = disk.layers
    boot = "" if number else "tiny"
    return DiskSource(vm="web-1", disk=replace(disk, file=first.file, format=first.format, layers=tuple(rest)), boot_image=boot)


def resting(vm: Vm, number: int) -> DiskSource:
    return DiskSource(vm="web-1", disk=vm.spec.disks[number], resting=True)


def equal(vm: Vm, image: str, source: DiskSource) -> None:
    """All of it; and the image stands on nothing."""
    if isinstance(vm.rig, QemuRig):
        made, disk = vm.rig.pool / "images" / image / "disk.qcow2", vm.rig.pool / "disks" / source.disk.file
        subprocess.run(["qemu-img", "compare", "-U", str(made), str(disk)], check=True, capture_output=True)
        assert b"backing" not in subprocess.run(["qemu-img", "info", str(made)], check=True, capture_output=True).stdout


async def test_a_snapshot_of_a_vm_that_runs_on_becomes_an_image_that_others_start_from(vm: Vm) -> None:
    await vm.write("one")
    await vm.take()
    await vm.write("two")
    await vm.take(Freeze.NO)
    await vm.write("three")
    source = held(vm, 0)
    info = await vm.driver.make_image("default", "web", source, vm.spec.boot)
    assert (info.format, info.size_mib, len(info.sha256)) == (DiskFormat.QCOW2, 256, 64)
    equal(vm, "web", source)
    assert await vm.driver.make_image("default", "web", source, vm.spec.boot) == info, "said again it changes nothing"
    await vm.reads("three")
    await vm.driver.kill("web-1")
    await vm.driver.remove_disks("web-1", vm.spec.disks)
    like = vm.rig.spec("web-2")
    like = replace(like, disks=(replace(like.disks[0], image="web"),), boot_image="web")
    await vm.driver.start(like)
    await guest_up(vm.driver, "web-2")
    if vm.rig.real:
        said = "until grep -q ' /data ' /proc/mounts; do sleep 0.1; done; cat /data/word"
        done = await vm.driver.exec("web-2", ("sh", "-c", said), b"", 30.0)
        assert done.stdout == b"two\n", done
    await vm.driver.kill("web-2")


async def test_what_a_guest_writes_is_read_only_while_it_is_at_rest(vm: Vm) -> None:
    await vm.write("one")
    with pytest.raises(BadImage, match="take a snapshot"):
        await vm.driver.make_image("default", "data", resting(vm, 1))
    await vm.driver.kill("web-1")
    info = await vm.driver.make_image("default", "data", resting(vm, 1))
    assert info.size_mib == 64
    equal(vm, "data", resting(vm, 1))
    with pytest.raises(BadImage, match="another image"):
        await vm.driver.make_image("default", "data", resting(vm, 0))
    gone = replace(resting(vm, 1), disk=replace(DATA, file="web-1-gone.qcow2"))
    with pytest.raises(BadImage, match="not there"):
        await vm.driver.make_image("default", "gone", gone)
    if isinstance(vm.rig, QemuRig):
        assert {path.name for path in (vm.rig.pool / "images").iterdir()} == {"tiny", "data"}, "what came to nothing leaves nothing"
    await vm.started(2)
    await guest_up(vm.driver)


async def test_of_a_vm_at_rest_no_older_file_is_taken_for_its_newest(vm: Vm) -> None:
    older = resting(vm, 1)
    await vm.take()
    await vm.write("newer")
    await vm.driver.kill("web-1")
    with pytest.raises(BadImage, match="newest"):
        await vm.driver.make_image("default", "data", older)
    assert (await vm.driver.make_image("default", "data", resting(vm, 1))).size_mib == 64
    equal(vm, "data", resting(vm, 1))


def slowly(driver: QemuDriver, folder: Path) -> None:
    """Its qemu-img copies 1 MiB a second, after the first two."""
    folder.chmod(0o755)
    script = folder / "qemu-img"
    slow = 'if [ "$1" = convert ]; then shift; exec qemu-img convert -r 1M "$@"; fi; exec qemu-img "$@"'
    script.write_text(f"#!/bin/sh\n{slow}\n", encoding="ascii")
    script.chmod(0o755)
    driver._image_tool._program = str(script)


@pytest.mark.parametrize("rig", ["qemu"], indirect=True)
async def test_what_is_being_read_is_not_removed_nor_is_its_vm_at_rest_started(vm: Vm) -> None:
    assert isinstance(vm.driver, QemuDriver) and isinstance(vm.rig, QemuRig)
    await vm.sh("head -c 8000000 /dev/urandom | dd of=/dev/vdb conv=fsync 2>/dev/null")
    await vm.driver.kill("web-1")
    other = vm.rig.driver("n2")
    await other.open()
    with tempfile.TemporaryDirectory() as folder:
        slowly(vm.driver, Path(folder))
        making = asyncio.create_task(vm.driver.make_image("default", "data", resting(vm, 1)))
        async with asyncio.timeout(OPEN_S_MAX):
            while not disks.is_open(vm.rig.pool / "disks" / DATA.file):
                assert not making.done(), making.result()
                await asyncio.sleep(0.01)  # the kernel has no event for a lock
        with pytest.raises(Locked):
            await other.remove_disks("web-1", vm.spec.disks)
        with pytest.raises(Locked):
            await other.start(replace(vm.spec, generation=2))
        starting = asyncio.create_task(vm.driver.start(replace(vm.spec, generation=3)))
        assert not making.done(), "all of that was refused while it was being read"
        await making
        await starting
    equal_now = await vm.driver.make_image("default", "data", resting(vm, 1))
    assert equal_now == making.result()
    await vm.driver.kill("web-1")
    await other.close()


@pytest.mark.parametrize("rig", ["qemu"], indirect=True)
async def test_a_merge_into_what_is_being_read_waits_until_it_was(vm: Vm) -> None:
    assert isinstance(vm.driver, QemuDriver) and isinstance(vm.rig, QemuRig)
    await vm.sh("head -c 8000000 /dev/urandom | dd of=/dev/vdb conv=fsync 2>/dev/null")
    await vm.take(Freeze.NO)
    await vm.write("one")
    await vm.take(Freeze.NO)
    source = held(vm, 1)
    going = (DATA.file,)
    with tempfile.TemporaryDirectory() as folder:
        slowly(vm.driver, Path(folder))
        making = asyncio.create_task(vm.driver.make_image("default", "data", source))
        async with asyncio.timeout(OPEN_S_MAX):
            while not list((vm.rig.pool / "images").glob(".making-*/made/.disk*")):
                await asyncio.sleep(0.01)  # a file system has no event for it here
            await asyncio.sleep(0.3)  # qemu-img opens its files
        has = await vm.fit(replace(vm.spec, disks=tuple(leaving(d, *going) for d in vm.spec.disks), taking=None))
        assert not making.done(), has
        assert [(m.what, m.slot, m.pending) for m in has.misfits] == [("snapshot", 1, True)], has
        await making
    has = await vm.merged(*going)
    assert has.misfits == () and DATA.file not in dict(has.chains)[1]
    equal(vm, "data", source)
    await vm.reads("one")
