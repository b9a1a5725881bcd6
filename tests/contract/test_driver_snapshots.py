"""Snapshots of a VM's disks and their end: one suite for both drivers. What its guest has written is looked at from inside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.hardware import Consistency, Hardware
from proto.machine import Disk, DiskFormat, Freeze, Layer, MachineSpec, Taking, birth
from services.node.drivers import CannotStart, Driver, Locked
from tests.contract.driver_rigs import Rig, guest_up, rig_of

DATA = Disk(
    name="data", pool="default", file="web-1-data.qcow2", size_mib=64, format=DiskFormat.QCOW2, serial="data-1", slot=1
)


def topped(disk: Disk, token: str) -> Disk:
    layers = (Layer(file=disk.file, format=disk.format), *disk.layers)
    return replace(disk, file=f"web-1-{disk.name}.s{token}.qcow2", format=DiskFormat.QCOW2, layers=layers, made=False)


def leaving(disk: Disk, *files: str) -> Disk:
    return replace(disk, layers=tuple(replace(one, leaving=one.leaving or one.file in files) for one in disk.layers))


def without_leaving(disk: Disk) -> Disk:
    return replace(disk, layers=tuple(one for one in disk.layers if not one.leaving))


@dataclass
class Vm:
    """One that runs, with two disks; `token` counts its snapshots."""

    rig: Rig
    driver: Driver
    spec: MachineSpec
    token: int = 0

    async def fit(self, spec: MachineSpec | None = None) -> Hardware:
        self.spec = spec or self.spec
        machine = await self.driver.fit(self.spec)
        assert machine.hardware is not None
        return machine.hardware

    async def take(self, freeze: Freeze = Freeze.AUTO) -> Hardware:
        return await self.fit(self.taken(freeze))

    def taken(self, freeze: Freeze = Freeze.AUTO) -> MachineSpec:
        self.token += 1
        token = f"1-{self.token}"
        disks = tuple(topped(d, token) for d in self.spec.disks)
        return replace(self.spec, disks=disks, taking=Taking(token=token, freeze=freeze))

    async def merged(self, *files: str) -> Hardware:
        """Until the layers are gone."""
        spec = replace(self.spec, disks=tuple(leaving(d, *files) for d in self.spec.disks), taking=None)
        has = await self.fit(spec)
        while any(m.what == "merge" for m in has.misfits):
            has = await self.fit()
        return has

    async def dropped(self) -> Hardware:
        return await self.fit(replace(self.spec, disks=tuple(without_leaving(d) for d in self.spec.disks)))

    async def again(self) -> None:
        """Another agent's driver."""
        await self.driver.close()
        self.driver = self.rig.driver()
        await self.driver.open()

    async def started(self, generation: int) -> None:
        await self.driver.kill("web-1")
        self.spec = replace(self.spec, generation=generation, taking=None, born=None)
        await self.driver.start(self.spec)
        self.spec = replace(self.spec, born=birth(self.spec))

    async def sh(self, script: str) -> str:
        """Nothing is asked of a simulated guest."""
        done = await self.driver.exec("web-1", ("sh", "-c", script), b"", 30.0)
        assert (done.exit_code, done.error) == (0, ""), (script, done)
        return done.stdout.decode().strip()

    async def mounted(self) -> None:
        """Its file system is mounted a moment after its agent answers."""
        if self.rig.real:
            await self.sh("until grep -q ' /data ' /proc/mounts; do sleep 0.1; done")

    async def write(self, word: str) -> None:
        if self.rig.real:
            await self.sh(f"echo {word} > /data/word; echo {word} | dd of=/dev/vdb conv=fsync 2>/dev/null; sync")

    async def reads(self, word: str) -> None:
        if self.rig.real:
            assert await self.sh("cat /data/word; dd if=/dev/vdb bs=64 count=1 2>/dev/null | head -n 1") == f"{word}\n{word}"


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@asynccontextmanager
async def mounted(rig: Rig) -> AsyncIterator[Vm]:
    """One that runs, with a file system on its second disk."""
    driver = rig.driver()
    await driver.open()
    plain = replace(rig.spec(), disks=(*rig.spec().disks, DATA))
    spec = replace(plain, born=birth(plain))
    await rig.settled(driver, spec)
    vm = Vm(rig, driver, spec)
    await vm.mounted()
    yield vm
    await vm.driver.close()


@pytest.fixture
async def vm(rig: Rig) -> AsyncIterator[Vm]:
    async with mounted(rig) as running:
        yield running


def files(has: Hardware, slot: int) -> tuple[str, ...]:
    return dict(has.chains)[slot]


async def test_a_snapshot_is_taken_of_all_disks_with_its_file_systems_standing_still(vm: Vm) -> None:
    await vm.write("one")
    has = await vm.take()
    assert has.misfits == () and has.took is not None, has
    assert (has.took.token, has.took.failed, has.took.consistency) == ("1-1", False, Consistency.FILESYSTEM), has.took
    assert files(has, 0) == ("web-1-root.s1-1.qcow2", "web-1-root.qcow2")
    assert files(has, 1) == ("web-1-data.s1-1.qcow2", "web-1-data.qcow2")
    await vm.reads("one")
    await vm.write("two")
    assert await vm.fit() == has, "said again it changes nothing"
    await vm.again()
    assert await vm.fit() == has, "nor to another agent"
    await vm.reads("two")


async def test_layers_are_merged_while_the_guest_runs_and_writes(vm: Vm) -> None:
    for word in ("one", "two", "three"):
        await vm.write(word)
        assert len(files(await vm.take(), 0)) == vm.token + 1
    await vm.write("four")
    has = await vm.merged("web-1-root.s1-1.qcow2", "web-1-data.s1-1.qcow2")
    assert files(has, 0) == ("web-1-root.s1-3.qcow2", "web-1-root.s1-2.qcow2", "web-1-root.qcow2")
    assert has.misfits == ()
    await vm.reads("four")
    has = await vm.dropped()
    assert files(has, 1) == ("web-1-data.s1-3.qcow2", "web-1-data.s1-2.qcow2", "web-1-data.qcow2")
    has = await vm.merged("web-1-root.qcow2", "web-1-data.qcow2", "web-1-root.s1-2.qcow2", "web-1-data.s1-2.qcow2")
    assert files(has, 0) == ("web-1-root.s1-3.qcow2",)
    assert (await vm.dropped()).chains == ()
    await vm.reads("four")
    old = ("web-1-data.s1-1.qcow2", "web-1-data.s1-2.qcow2", "web-1-data.qcow2")
    await vm.driver.remove_disks("web-1", tuple(replace(DATA, file=file) for file in old))
    assert not set(old).intersection(vm.rig.disks("n1"))
    await vm.started(2)
    await guest_up(vm.driver)
    await vm.mounted()
    await vm.reads("four")


async def test_what_is_stood_on_is_not_removed_nor_written(vm: Vm) -> None:
    await vm.take()
    with pytest.raises(Locked):
        await vm.driver.remove_disks("web-1", (DATA,))
    await vm.driver.kill("web-1")
    with pytest.raises(Locked, match="stands on"):
        await vm.driver.remove_disks("web-1", (DATA,))
    older = replace(vm.rig.spec(), generation=2, disks=(*vm.rig.spec().disks, DATA))
    with pytest.raises(CannotStart, match="layer of a snapshot"):
        await vm.driver.start(older)
    await vm.driver.start(replace(vm.spec, generation=3, taking=None))
    await vm.driver.kill("web-1")
    await vm.driver.remove_disks("web-1", vm.spec.disks)
    assert vm.rig.disks("n1") == []


async def test_going_back_and_merging_at_rest(vm: Vm) -> None:
    """A snapshot of a VM at rest, and going back to one, are made by the next start."""
    await vm.write("old")
    await vm.take()
    await vm.write("lost")
    back = tuple(replace(d, file=f"web-1-{d.name}.s1-9.qcow2") for d in vm.spec.disks)
    vm.spec = replace(vm.spec, disks=back)
    await vm.started(2)
    await guest_up(vm.driver)
    await vm.mounted()
    await vm.reads("old")
    await vm.write("new")
    with pytest.raises(Locked):
        await vm.driver.merge_layers("web-1", tuple(leaving(d, "web-1-root.qcow2", "web-1-data.qcow2") for d in back))
    await vm.driver.kill("web-1")
    going = tuple(leaving(d, "web-1-root.qcow2", "web-1-data.qcow2") for d in back)
    for _ in range(2):
        await vm.driver.merge_layers("web-1", going)
    old = tuple(replace(d, file=d.file.replace("s1-9", "s1-1"), layers=()) for d in back)
    await vm.driver.remove_disks("web-1", (*old, DATA, vm.rig.spec().disks[0]))
    assert vm.rig.disks("n1") == ["web-1-data.s1-9.qcow2", "web-1-root.s1-9.qcow2"]
    vm.spec = replace(vm.spec, disks=going)
    await vm.started(3)
    await guest_up(vm.driver)
    await vm.mounted()
    await vm.reads("new")
    assert files(await vm.fit(), 0) == ("web-1-root.s1-9.qcow2",), "the header says that it is merged"
