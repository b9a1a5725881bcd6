"""A backup made by hand, for both drivers, and what the suites of recoveries ask of a VM that stands on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.backups import BackupDone, BackupKind, Definition, SavedDisk
from proto.hardware import Hardware
from proto.machine import Disk, DiskFormat, Layer, MachineSpec, Origin, birth
from proto.node import CopyNow
from services.node.drivers import Driver
from services.node.drivers.qemu import disks, homing
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.machine import RunningVm
from services.node.drivers.simbackups import SimBackup, key_of
from tests.contract.backup_rig import into_windows, media
from tests.contract.driver_rigs import QemuRig, Rig, SimRig, guest_up

FULL, NEWER = "b1-1", "b1-2"
WORD = b"what was backed up"
ALL_MIB, HOME_S_MAX = 96, 60.0


def file_of(backup: str) -> str:
    return f"old-1-data.{backup}.qcow2"


def folder(rig: QemuRig, backup: str) -> Path:
    return rig.backups / "old-1" / backup


def qemu_io(file: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, file.name], check=True, capture_output=True, cwd=file.parent)


def backed_up(rig: Rig) -> None:
    """A full one with a word in its first sector and noise behind it; one more, on that, with another word at 64 MiB."""
    if isinstance(rig, SimRig):
        for backup, parent in ((FULL, ""), (NEWER, FULL)):
            saved = SavedDisk(disk="data", file=file_of(backup), size_mib=ALL_MIB, bytes=1 << 20, sha256="0" * 64)
            kind = BackupKind.INCREMENTAL if parent else BackupKind.FULL
            done = BackupDone(kind=kind, disks=(saved,), at_us=1, parent=parent)
            of = Definition(shape=rig.spec().shape, disks=(), nics=())
            rig.pool.backups[key_of("default", "old-1", backup)] = SimBackup(done, {"data": backup}, of)
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
    into_windows(rig, full, newer)


def digests(rig: Rig) -> list[str]:
    if not isinstance(rig, QemuRig):
        return []
    return [media(rig).digest(folder(rig, b) / file_of(b), threading.Event())[1] for b in (FULL, NEWER)]


def size_of(rig: Rig, backup: str) -> int:
    """0: not known."""
    path = folder(rig, backup) / file_of(backup) if isinstance(rig, QemuRig) else None
    return media(rig).size(path) if isinstance(rig, QemuRig) and path is not None and path.exists() else 0


def recovered(rig: Rig, backup: str = NEWER) -> Disk:
    names = (NEWER, FULL) if backup == NEWER else (FULL,)
    sizes = {b: size_of(rig, b) for b in names}
    origin = Origin(vm="old-1", backup="", pool=rig.backup_pool if isinstance(rig, QemuRig) else "default")
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
        "dd if=/dev/vdb bs=512 count=1 | tr -d '\\000'; dd if=/dev/vdb bs=1M skip=1 count=1 | head -c 3;"
        "dd if=/dev/vdb bs=64k skip=1024 count=2 | tr -d '\\000' | wc -c"
    )
    if isinstance(rig, SimRig):
        assert rig.pool.on(recovered(rig)) == NEWER
    else:
        done = await driver.exec("web-1", ("sh", "-c", script), b"", 30.0)
        # what dd says tells zeros from an error and from a short read
        assert done.stdout.decode() == WORD.decode() + "AAA" + "65536\n", done


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


def gone(rig: Rig, *backups: str) -> None:
    """Their files are lost."""
    for backup in backups or (FULL, NEWER):
        if isinstance(rig, QemuRig):
            (folder(rig, backup) / file_of(backup)).unlink()
        elif isinstance(rig, SimRig):
            del rig.pool.backups[key_of("default", "old-1", backup)]


async def own_word(rig: Rig, driver: Driver) -> str:
    """What the guest wrote itself."""
    return await sh(rig, driver, "dd if=/dev/vdb bs=512 skip=10 count=1 2>/dev/null | head -c 3") or "own"


@contextlib.contextmanager
def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What comes home creeps, so that it takes longer than a test does."""
    with monkeypatch.context() as patch:
        patch.setattr(homing, "after", lambda pace, seen: pace)
        yield


async def some_home(driver: Driver) -> None:
    """A part of it has come, and not all."""
    async with asyncio.timeout(HOME_S_MAX):
        while not (copies := await driver.copies()) or not copies[0].done_mib:
            await asyncio.sleep(0.02)  # how far it is has no event
    (copy,) = copies
    assert (copy.vm, copy.what, copy.name) == ("web-1", "home", "data")
    assert copy.done_mib < copy.all_mib <= ALL_MIB + 32


async def all_copied(driver: Driver) -> None:
    """Its job has copied all, and nobody has looked at it since."""
    async with asyncio.timeout(HOME_S_MAX):
        while any(job["status"] == "running" for job in await running(driver).do("query-block-jobs")):
            await asyncio.sleep(0.02)  # it is looked at as one that nobody waits for


async def coming(driver: Driver) -> CopyNow:
    """It is known how much is to come."""
    async with asyncio.timeout(HOME_S_MAX):
        while not (copies := await driver.copies()) or not copies[0].all_mib:
            await asyncio.sleep(0.02)  # how far it is has no event
    return copies[0]
