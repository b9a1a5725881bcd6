"""A running VM is made like its specification: one suite for both drivers. What its guest sees is looked at from inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.hardware import Hardware
from proto.machine import Disk, DiskBus, DiskFormat, DiskLimits, MachineSpec, MemoryBy, Nic, NicKind, NicModel, birth
from proto.models import DISKS
from services.node.drivers import CannotStart, Driver, NoSuchVm
from services.node.drivers.qemu import fitting
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.simulated import SimParams, SimulatedDriver
from tests.contract.driver_rigs import Rig, rig_of

SEEN_S_MAX = 10.0
DATA = Disk(
    name="data", pool="default", file="web-1-data.qcow2", size_mib=64, format=DiskFormat.QCOW2, serial="data-1", slot=1
)
LAN2 = Nic(name="lan2", kind=NicKind.USER, mac="52:54:00:aa:bb:02", slot=2)


@dataclass
class Vm:
    """One that runs, and the ways to look at it."""

    rig: Rig
    driver: Driver
    spec: MachineSpec

    def wish(self, *, vcpus: int = 0, memory_mib: int = 0, **changes: object) -> MachineSpec:
        shape = self.spec.shape
        shape = replace(shape, vcpus=vcpus or shape.vcpus, memory_mib=memory_mib or shape.memory_mib)
        self.spec = replace(self.spec, shape=shape, **changes)
        return self.spec

    async def fit(self, *, vcpus: int = 0, memory_mib: int = 0, **changes: object) -> Hardware:
        return await self.again(self.wish(vcpus=vcpus, memory_mib=memory_mib, **changes))

    async def again(self, spec: MachineSpec | None = None) -> Hardware:
        machine = await self.driver.fit(spec or self.spec)
        assert machine.hardware is not None
        return machine.hardware

    async def sees(self, script: str, expected: str) -> None:
        """Inside, within SEEN_S_MAX; nothing is asked of a simulated guest."""
        if not self.rig.real:
            return
        said = ""
        try:
            async with asyncio.timeout(SEEN_S_MAX):
                while said != expected:  # each question takes its time in the guest
                    said = (await self.driver.exec("web-1", ("sh", "-c", script), b"", 10.0)).stdout.decode().strip()
        except TimeoutError:
            raise AssertionError(f"{script}: {said!r}, not {expected!r}") from None


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def vm(rig: Rig) -> AsyncIterator[Vm]:
    driver = rig.driver()
    await driver.open()
    plain = rig.spec()
    spec = replace(plain, born=birth(plain))
    await rig.settled(driver, spec)
    yield Vm(rig, driver, spec)
    await driver.close()


async def test_vcpus_and_memory_are_added_and_taken(vm: Vm) -> None:
    has = await vm.fit(vcpus=2)
    assert (has.vcpus, has.plugged_vcpus, has.misfits) == (2, 2, ())
    await vm.sees("nproc", "2")
    has = await vm.fit(memory_mib=416)
    assert (has.memory_mib, has.misfits) == (416, ())
    assert sum(region.size_mib for region in await vm.driver.memory.regions("web-1")) == 416
    await vm.sees("awk '/MemTotal/ {print ($2 > 360000)}' /proc/meminfo", "1")
    assert await vm.again() == has
    has = await vm.fit(vcpus=1, memory_mib=288)
    assert (has.vcpus, has.plugged_vcpus, has.memory_mib, has.misfits) == (1, 2, 288, ())
    await vm.sees("nproc; awk '/MemTotal/ {print ($2 < 260000)}' /proc/meminfo", "1\n1")
    has = await vm.fit(vcpus=2)
    assert (has.vcpus, has.plugged_vcpus) == (2, 2)


@pytest.fixture
async def by_modules(rig: Rig) -> AsyncIterator[Vm]:
    driver = rig.driver()
    await driver.open()
    plain = rig.spec()
    spec = replace(plain, shape=replace(plain.shape, memory_by=MemoryBy.DIMM, memory_max_mib=1024))
    spec = replace(spec, born=birth(spec))
    await rig.settled(driver, spec)
    yield Vm(rig, driver, spec)
    await driver.close()


async def test_memory_comes_and_goes_by_modules(by_modules: Vm) -> None:
    vm = by_modules
    has = await vm.fit(memory_mib=288, dimms_mib=(128,))
    assert (has.memory_mib, has.dimms_mib, has.misfits) == (288, (128,), ())
    await vm.sees("awk '/MemTotal/ {print ($2 > 230000)}' /proc/meminfo", "1")
    has = await vm.fit(memory_mib=544, dimms_mib=(128, 256))
    assert (has.memory_mib, has.dimms_mib, has.misfits) == (544, (128, 256), ())
    await vm.sees("awk '/MemTotal/ {print ($2 > 480000)}' /proc/meminfo", "1")
    assert await vm.again() == has
    has = await vm.fit(memory_mib=288, dimms_mib=(128,))
    assert (has.memory_mib, has.dimms_mib, has.misfits) == (288, (128,), ())
    await vm.sees("awk '/MemTotal/ {print ($2 < 260000)}' /proc/meminfo", "1")
    assert sum(region.size_mib for region in await vm.driver.memory.regions("web-1")) == 288


async def test_its_modules_go_along_when_it_moves(by_modules: Vm) -> None:
    await by_modules.fit(memory_mib=416, dimms_mib=(128, 128))
    await by_modules.sees("awk '/MemTotal/ {print ($2 > 360000)}' /proc/meminfo", "1")
    moved = await _moved(by_modules, by_modules.spec)
    has = await moved.again()
    assert (has.memory_mib, has.dimms_mib, has.misfits) == (416, (128, 128), ())
    await moved.sees("awk '/MemTotal/ {print ($2 > 360000)}' /proc/meminfo", "1")
    has = await moved.fit(memory_mib=288, dimms_mib=(128,))
    assert (has.memory_mib, has.dimms_mib, has.misfits) == (288, (128,), ())
    await moved.driver.kill("web-1")
    await moved.driver.close()


async def _moved(vm: Vm, grown: MachineSpec) -> Vm:
    """On another node of the same pool, as generation 2."""
    there = vm.rig.driver("n2")
    await there.open()
    spec = replace(grown, generation=2, plugged_vcpus=grown.shape.vcpus)
    changes = vm.driver.changes()
    waiting = await there.receive(spec)
    await vm.driver.send("web-1", waiting.address)
    async with asyncio.timeout(30):
        async for change in changes:
            assert not change.unsent, change.unsent
            if change.status == "sent":
                break
    await vm.driver.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    return Vm(vm.rig, there, spec)


@pytest.mark.parametrize("bus", [bus for bus in DiskBus if not bus.is_cd])
async def test_a_disk_is_plugged_grown_and_unplugged(vm: Vm, bus: DiskBus) -> None:
    root = vm.spec.disks[0]
    disk = replace(DATA, bus=bus)
    has = await vm.fit(disks=(root, disk))
    assert (has.slots, dict(has.disk_mib)[1], has.misfits) == ((0, 1, 8), 64, ())
    name = {DiskBus.VIRTIO_BLK: "vdb", DiskBus.VIRTIO_SCSI: "sda", DiskBus.NVME: "nvme0n1"}[bus]
    await vm.sees(f"cat /sys/block/{name}/size", str(64 * 2048))
    assert await vm.again() == has
    has = await vm.fit(disks=(root, replace(disk, size_mib=96)))
    if DISKS[bus].grows:
        assert (dict(has.disk_mib)[1], has.misfits) == (96, ())
        await vm.sees(f"cat /sys/block/{name}/size", str(96 * 2048))
    else:
        assert (dict(has.disk_mib)[1], [m.slot for m in has.misfits]) == (64, [1])
        assert "restart" in has.misfits[0].sentence
    assert await vm.driver.memory.regions("web-1"), "a look that must not hold on to what was mapped"
    has = await vm.fit(disks=(root,), leaving=(1,))
    assert (has.slots, has.misfits) == ((0, 8), ())
    await vm.sees(f"ls /sys/block | grep -c {name}", "0")
    assert await vm.again() == has


@pytest.mark.parametrize("model", list(NicModel))
async def test_a_nic_is_plugged_and_unplugged(vm: Vm, model: NicModel) -> None:
    lan = vm.spec.nics[0]
    nic = replace(LAN2, model=model)
    has = await vm.fit(nics=(lan, nic))
    assert (has.slots, has.misfits) == ((0, 2, 8), ())
    await vm.sees("cat /sys/class/net/eth1/address", nic.mac)
    assert await vm.again() == has
    await vm.sees("ip link set eth1 up; sleep 0.1; cat /sys/class/net/eth1/carrier", "1")
    await vm.fit(nics=(lan, replace(nic, link=False)))
    if model is NicModel.VIRTIO:  # a Linux guest is not told by an e1000e of QEMU 7.2
        await vm.sees("cat /sys/class/net/eth1/carrier", "0")
    has = await vm.fit(nics=(lan,), leaving=(2,))
    assert (has.slots, has.misfits) == ((0, 8), ())
    await vm.sees("ls /sys/class/net | grep -c eth1", "0")


async def test_nothing_leaves_that_was_not_named(vm: Vm) -> None:
    """An order of a log that lost what was attached must not take it away."""
    await vm.fit(disks=(*vm.spec.disks, DATA), nics=(*vm.spec.nics, LAN2))
    has = await vm.fit(disks=vm.spec.disks[:1], nics=())
    assert has.slots == (0, 1, 2, 8)


async def test_what_is_not_known_to_be_born_keeps_its_size(vm: Vm) -> None:
    await vm.fit(vcpus=2, memory_mib=416)
    has = await vm.fit(vcpus=1, memory_mib=160, born=None)
    assert (has.vcpus, has.memory_mib) == (2, 416)


async def test_only_the_generation_that_runs_is_fitted(vm: Vm) -> None:
    with pytest.raises(NoSuchVm, match="generation"):
        await vm.driver.fit(replace(vm.spec, generation=2))
    with pytest.raises(NoSuchVm, match="nobody"):
        await vm.driver.fit(replace(vm.spec, vm="nobody"))


async def test_what_a_guest_does_not_let_go_is_told_and_goes_later(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped guest hears of nothing."""
    root = vm.spec.disks[0]
    await vm.fit(disks=(root, DATA))
    await vm.sees("cat /sys/block/vdb/size", str(64 * 2048))
    monkeypatch.setattr(fitting, "UNPLUG_S_MAX", 0.1)
    if isinstance(vm.driver, SimulatedDriver):
        vm.driver.host.params = SimParams(ignores_unplug=1.0, verb_us=1000)
    await vm.driver.pause("web-1")
    has = await vm.fit(disks=(root,), leaving=(1,))
    assert (has.slots, [(m.what, m.slot, m.pending) for m in has.misfits]) == ((0, 1, 8), [("disk", 1, True)])
    monkeypatch.setattr(fitting, "UNPLUG_S_MAX", 5.0)
    await vm.driver.resume("web-1")
    if isinstance(vm.driver, SimulatedDriver):
        vm.driver.host.params = SimParams(verb_us=1000)
    has = await vm.again()
    assert (has.slots, has.misfits) == ((0, 8), ())


async def test_it_grew_before_it_moved_and_is_the_same_machine_after(vm: Vm) -> None:
    await vm.fit(vcpus=2, memory_mib=288, disks=(*vm.spec.disks, DATA), nics=(*vm.spec.nics, LAN2))
    await vm.sees("nproc; cat /sys/block/vdb/size", f"2\n{64 * 2048}")
    moved = await _moved(vm, vm.spec)
    has = await moved.again()
    assert (has.vcpus, has.plugged_vcpus, has.memory_mib) == (2, 2, 288)
    assert (has.slots, has.misfits) == ((0, 1, 2, 8), ())
    await moved.sees("nproc; ls /sys/class/net | grep -c eth", "2\n2")
    has = await moved.fit(memory_mib=416, disks=vm.spec.disks[:1], leaving=(1,))
    assert (has.memory_mib, has.slots, has.misfits) == (416, (0, 2, 8), ())
    await moved.driver.kill("web-1")
    await moved.driver.close()


# --- only real processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def real(vm: Vm) -> Vm:
    if not vm.rig.real:
        pytest.skip("a simulated VM has no monitor")
    return vm


async def test_a_disk_does_what_it_may_at_most(real: Vm) -> None:
    root = real.spec.disks[0]
    await real.fit(disks=(root, replace(DATA, limits=DiskLimits(mibps=2))))
    await real.sees("cat /sys/block/vdb/size", str(64 * 2048))
    timed = "s=$(cut -d' ' -f1 /proc/uptime); dd if=/dev/zero of=/dev/vdb bs=256k count=24 oflag=direct 2>/dev/null;"
    timed += "e=$(cut -d' ' -f1 /proc/uptime); awk \"BEGIN {print ($e - $s > 1.8)}\""
    await real.sees(timed, "1")
    await real.fit(disks=(root, DATA))
    await real.sees(timed, "0")


async def test_a_nic_goes_only_into_a_bridge_that_is_there(vm: Vm) -> None:
    lost = replace(LAN2, kind=NicKind.BRIDGE, bridge="br9", network="far")
    has = await vm.fit(nics=(*vm.spec.nics, lost))
    (said,) = [m.sentence for m in has.misfits if m.slot == lost.slot]
    assert lost.slot not in has.slots and "br9" in said
    await vm.driver.kill("web-1")
    with pytest.raises(CannotStart, match="br9"):
        await vm.driver.start(replace(vm.spec, generation=2, nics=(lost,), born=None))


async def test_beyond_its_ports_and_pools_is_told(real: Vm) -> None:
    has = await real.fit(
        disks=(*real.spec.disks, replace(DATA, slot=40), replace(DATA, name="far", slot=3, pool="far")),
        nics=(*real.spec.nics, replace(LAN2, kind=NicKind.BRIDGE, bridge="br9", trusted=True)),
    )
    said = {m.slot: m.sentence for m in has.misfits}
    assert (has.slots, set(said)) == ((0, 8), {40, 3, 2})
    assert "restart" in said[40] and "far" in said[3] and "br9" in said[2]


class Cut(Exception):
    """The agent ends here."""


async def test_a_fit_that_is_cut_anywhere_is_gone_on_with(real: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command is the last one once, on the way in and on the way out; then another agent's driver does it, twice."""
    without = replace(real.spec, leaving=(1, 2))
    more = replace(
        real.spec,
        disks=(*real.spec.disks, DATA),
        nics=(*real.spec.nics, LAN2),
        shape=replace(real.spec.shape, vcpus=2, memory_mib=288),
    )
    for wanted, slots, memory_mib in ((more, (0, 1, 2, 8), 288), (without, (0, 8), 160)):
        step, cut = 0, True
        while cut:
            cut = await _cut_at(real, wanted, step, monkeypatch)
            step += 1
            await real.driver.close()
            real.driver = real.rig.driver()
            await real.driver.open()
            has = await real.again(wanted)
            assert (has.slots, has.memory_mib, has.misfits) == (slots, memory_mib, ()), step
            assert await real.again(wanted) == has
            back = without if wanted is more else more
            assert (await real.again(back)).misfits == ()
        await real.again(wanted)
    assert step > 5, "a fit is many commands"


async def _cut_at(vm: Vm, wanted: MachineSpec, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Fits until `step` commands that change something were carried out. Whether it was cut."""
    assert isinstance(vm.driver, QemuDriver)
    qmp = vm.driver._fleet.vms["web-1"].qmp
    changing = ("blockdev-add", "device_add", "netdev_add", "qom-set", "device_del", "blockdev-del", "netdev_del")
    left, carried_out = step, qmp.execute

    async def counted(command: str, *words: object, **options: object) -> object:
        nonlocal left
        if command in changing:
            if left == 0:
                raise Cut
            left -= 1
        return await carried_out(command, *words, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(qmp, "execute", counted)
        try:
            await vm.driver.fit(wanted)
        except Cut:
            return True
    return False
