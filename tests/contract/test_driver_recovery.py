"""VMs that start on a backup's files, and whose data comes home while they run: one suite for both drivers. What a guest has
written is looked at from inside; that the backup is as it was, by its digest."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.backups import BackupDone, BackupKind, Definition, SavedDisk
from proto.hardware import Hardware
from proto.images import DiskSource
from proto.machine import Disk, DiskFormat, Layer, MachineSpec, Origin, birth
from services.node.drivers import BadImage, CannotStart, Driver, DriverError, Locked
from services.node.drivers.qemu import disks, homing
from services.node.drivers.qemu.bare import Bare
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.layers import backing_of
from services.node.drivers.qemu.machine import RunningVm
from services.node.drivers.simbackups import SimBackup, key_of
from tests.contract.driver_rigs import QemuRig, Rig, SimRig, guest_up, rig_of, told

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


def digests(rig: Rig) -> list[str]:
    if not isinstance(rig, QemuRig):
        return []
    return [hashlib.sha256((folder(rig, b) / file_of(b)).read_bytes()).hexdigest() for b in (FULL, NEWER)]


def size_of(rig: Rig, backup: str) -> int:
    """0: not known."""
    path = folder(rig, backup) / file_of(backup) if isinstance(rig, QemuRig) else None
    return path.stat().st_size if path is not None and path.exists() else 0


def recovered(rig: Rig, backup: str = NEWER) -> Disk:
    names = (NEWER, FULL) if backup == NEWER else (FULL,)
    sizes = {b: size_of(rig, b) for b in names}
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
    if isinstance(rig, SimRig):
        assert rig.pool.on(recovered(rig)) == NEWER
    else:
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
    other = replace(rig.spec("web-2"), disks=(*rig.spec("web-2").disks, replace(recovered(rig), file="web-2-data.r1.qcow2")))
    await driver.start(other)
    await guest_up(driver, "web-2")
    assert files(await home(driver, spec)) == ("web-1-data.r1.qcow2",)
    assert files(await home(driver, replace(other, born=birth(other)))) == ("web-2-data.r1.qcow2",)


async def test_a_backup_that_is_not_whole_is_refused_by_its_name(rig: Rig, driver: Driver) -> None:
    backed_up(rig)
    gone(rig, FULL)
    with pytest.raises(CannotStart, match="the backup b1-1 of old-1 in pool default is damaged"):
        await driver.start(replace(spec_of(rig), born=None))
    assert rig.left_over("n1") == []
    gone(rig, NEWER)
    with pytest.raises(CannotStart, match="the backup b1-2 of old-1 in pool default is damaged"):
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


async def test_the_next_agent_sees_to_a_copy_that_goes_on(rig: Rig, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
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
            while vm.merges.goes_on("merge1") and await vm.do("query-block-jobs"):
                await asyncio.sleep(0.02)  # it is looked at as one that nobody waits for
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


async def test_what_comes_home_at_rest_gives_way_to_a_start(
    rig: Rig, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(driver, QemuDriver):
        return  # a simulated one takes no time
    backed_up(rig)
    spec, do, begun = spec_of(rig), Bare.do, asyncio.Event()

    async def slow(self: Bare, command: str, words: dict[str, object] | None = None) -> object:
        if command != "block-stream":
            return await do(self, command, words)
        answer = await do(self, command, {**(words or {}), "speed": 1 << 20})
        begun.set()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Bare, "do", slow)
        merge = asyncio.create_task(driver.merge_layers("web-1", (spec.disks[1],)))
        await begun.wait()
        assert rig.left_over("n1") == [], "no process of a VM"
        await driver.start(replace(spec, born=None))
        with pytest.raises(DriverError, match="is being started"):
            await merge
    await guest_up(driver)
    await holds(rig, driver)
    assert files(await home(driver, spec)) == ("web-1-data.r1.qcow2",)
