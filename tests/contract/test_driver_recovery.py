"""VMs that start on a backup's files, and whose data comes home while they run: one suite for both drivers. What a guest has
written is looked at from inside; that the backup is as it was, by its digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.hardware import Hardware
from proto.machine import Disk, DiskFormat, Layer, MachineSpec, Origin, birth
from services.node.drivers import CannotStart, Driver
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.layers import backing_of
from services.node.drivers.qemu.machine import RunningVm
from tests.contract.driver_rigs import QemuRig, Rig, SimRig, guest_up, rig_of

FULL, NEWER = "b1-1", "b1-2"
WORD = b"what was backed up"
ALL_MIB, HOME_S_MAX = 96, 60.0


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    yield made
    await made.close()


def file_of(backup: str) -> str:
    return f"old-1-data.{backup}.qcow2"


def folder(rig: QemuRig, backup: str) -> Path:
    return rig.pool / "backups" / "old-1" / backup


def qemu_io(file: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, file.name], check=True, capture_output=True, cwd=file.parent)


def backed_up(rig: Rig) -> None:
    """A full one with a word in its first sector and noise behind it; one more, on that, with another word at 64 MiB."""
    if isinstance(rig, SimRig):
        rig.pool.backed_up("default", "old-1", FULL, file_of(FULL))
        rig.pool.backed_up("default", "old-1", NEWER, file_of(NEWER), file_of(FULL))
        return
    assert isinstance(rig, QemuRig)
    disks.make_pool(rig.pool)
    for backup in (FULL, NEWER):
        folder(rig, backup).mkdir(parents=True, mode=0o700)
    full, newer = folder(rig, FULL) / file_of(FULL), folder(rig, NEWER) / file_of(NEWER)
    noise = rig.top / "noise"
    noise.write_bytes(WORD.ljust(512, b"\0") + os.urandom((64 << 20) - 512))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(noise), str(full)], check=True)
    subprocess.run(["qemu-img", "resize", "-q", str(full), f"{ALL_MIB}M"], check=True)
    parent = f"../{FULL}/{file_of(FULL)}"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", parent, "-F", "qcow2", str(newer)], check=True)
    qemu_io(newer, "write -P 0x41 1M 1M", "write -P 0x42 64M 64k")
    for path in (full, newer):
        path.chmod(0o600)


def digests(rig: Rig) -> list[str]:
    if not isinstance(rig, QemuRig):
        return []
    return [hashlib.sha256((folder(rig, b) / file_of(b)).read_bytes()).hexdigest() for b in (FULL, NEWER)]


def recovered(rig: Rig, backup: str = NEWER) -> Disk:
    names = (NEWER, FULL) if backup == NEWER else (FULL,)
    sizes = {b: (folder(rig, b) / file_of(b)).stat().st_size if isinstance(rig, QemuRig) else 0 for b in names}
    origin = Origin(vm="old-1", backup="", pool="default")
    layers = tuple(
        Layer(
            file=file_of(b), format=DiskFormat.QCOW2, leaving=True, origin=replace(origin, backup=b, bytes=sizes[b])
        )
        for b in names
    )  # fmt: skip
    return Disk(
        name="data", pool="default", file="web-1-data.r1.qcow2", size_mib=ALL_MIB + 32, format=DiskFormat.QCOW2,
        serial="data-1", slot=1, layers=layers,
    )  # fmt: skip


def spec_of(rig: Rig, generation: int = 1, disk: Disk | None = None) -> MachineSpec:
    plain = rig.spec(generation=generation)
    spec = replace(plain, disks=(*plain.disks, disk or recovered(rig)))
    return replace(spec, born=birth(spec))


async def started(rig: Rig, driver: Driver, generation: int = 1) -> MachineSpec:
    spec = spec_of(rig, generation)
    await driver.start(replace(spec, born=None))
    await guest_up(driver)
    return spec


async def sh(rig: Rig, driver: Driver, script: str) -> str:
    if not rig.real:
        return ""
    done = await driver.exec("web-1", ("sh", "-c", script), b"", 30.0)
    assert (done.exit_code, done.error) == (0, ""), (script, done)
    return done.stdout.decode()


async def holds(rig: Rig, driver: Driver) -> None:
    """All that was backed up, as the guest sees it."""
    script = (
        "dd if=/dev/vdb bs=512 count=1 2>/dev/null | tr -d '\\000'; dd if=/dev/vdb bs=1M skip=1 count=1 2>/dev/null | head -c 3;"
        "dd if=/dev/vdb bs=64k skip=1024 count=2 2>/dev/null | tr -d '\\000' | wc -c"
    )
    if rig.real:
        assert await sh(rig, driver, script) == WORD.decode() + "AAA" + "65536\n"


async def fitted(driver: Driver, spec: MachineSpec) -> Hardware:
    machine = await driver.fit(spec)
    assert machine.hardware is not None
    return machine.hardware


def merging(has: Hardware) -> bool:
    return any(m.what == "merge" for m in has.misfits)


async def home(driver: Driver, spec: MachineSpec) -> Hardware:
    async with asyncio.timeout(HOME_S_MAX):
        while merging(has := await fitted(driver, spec)):
            pass
    return has


def files(has: Hardware) -> tuple[str, ...]:
    return dict(has.chains)[1]


def running(driver: Driver) -> RunningVm:
    assert isinstance(driver, QemuDriver)
    return driver._fleet.vms["web-1"]


async def test_a_guest_runs_on_a_backup_and_its_data_comes_home(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    before = digests(rig)
    spec = await started(rig, driver)
    await holds(rig, driver)
    await sh(rig, driver, "echo own | dd of=/dev/vdb bs=512 seek=10 conv=fsync 2>/dev/null")
    has = await home(driver, spec)
    assert files(has) == ("web-1-data.r1.qcow2",) and has.misfits == ()
    await holds(rig, driver)
    assert digests(rig) == before, "nobody writes a backup"
    if isinstance(rig, QemuRig):
        assert backing_of(rig.pool / "disks" / "web-1-data.r1.qcow2") == ""
        pid = (await driver.info("web-1")).pid
        held = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists()}
        assert not [name for name in held if "/backups/" in name], "a backup that was deleted would take room for ever"
        for backup in (FULL, NEWER):
            (folder(rig, backup) / file_of(backup)).unlink()
        await sh(rig, driver, "echo 3 > /proc/sys/vm/drop_caches")
        await holds(rig, driver)
    own = replace(spec, generation=2, born=None, disks=tuple(replace(d, layers=()) for d in spec.disks))
    await driver.kill("web-1")
    await driver.start(own)
    await guest_up(driver)
    await holds(rig, driver)
    if rig.real:
        assert await sh(rig, driver, "dd if=/dev/vdb bs=512 skip=10 count=1 2>/dev/null | head -c 3") == "own"
    await driver.kill("web-1")
    await driver.remove_disks("web-1", own.disks)
    assert rig.disks("n1") == []
