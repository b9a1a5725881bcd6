"""What a VM's devices count: one suite for both drivers; what a real guest does moves the figures of the right device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.ioview import CountedBy, DeviceIo, VmIo
from proto.machine import Disk, DiskBus, DiskFormat, MachineSpec, Nic, NicKind, NicModel, birth
from proto.models import MODELS
from services.node.drivers import Driver, GuestSilent, NoSuchVm
from services.node.drivers.io import BOUNDS_US
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.io_count import exits_of
from services.node.drivers.qemu.qmp import Qmp
from services.node.io_rates import Look, view
from tests.contract.driver_rigs import QemuRig, Rig, rig_of

MIB = 1024 * 1024
GUEST_S = 30.0


def machine(rig: Rig) -> MachineSpec:
    """A disk of each bus and a NIC of each model."""
    spec = rig.spec()
    more = [
        Disk(
            name=f"disk{slot}", pool="default", file=f"web-1-disk{slot}.qcow2", size_mib=64, format=DiskFormat.QCOW2,
            serial=f"data-{slot}", slot=slot, bus=bus,
        )
        for slot, bus in enumerate((bus for bus in DiskBus if not bus.is_cd), 1)
    ]
    e1000e = Nic(name="lan2", kind=NicKind.USER, mac="52:54:00:aa:bb:02", slot=4, model=NicModel.E1000E)
    return replace(spec, disks=(*spec.disks, *more), nics=(*spec.nics, e1000e))


async def plugged(rig: Rig, driver: Driver, spec: MachineSpec) -> None:
    """It runs, and its guest is at rest. What cannot be put aside, an NVMe disk, comes last."""
    kept = tuple(disk for disk in spec.disks if disk.bus is not DiskBus.NVME)
    await rig.settled(driver, replace(spec, disks=kept, born=birth(spec)))
    machine = await driver.fit(spec)
    assert machine.hardware is not None and machine.hardware.misfits == ()


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    await plugged(rig, made, machine(rig))
    yield made
    await made.close()


async def looked(driver: Driver, spec: MachineSpec, before: Look | None = None) -> tuple[Look, VmIo]:
    look = Look(time.monotonic_ns() // 1000, await driver.io(spec.vm))
    return look, view("n1", look, before, {d.slot: d.name for d in spec.disks} | {n.slot: n.name for n in spec.nics})


def named(seen: VmIo, name: str) -> DeviceIo:
    return next(d for d in seen.devices if d.name == name)


async def test_each_device_is_there_once_as_what_it_is(rig: Rig, driver: Driver) -> None:
    spec = machine(rig)
    _, seen = await looked(driver, spec)
    names = [d.name for d in seen.devices]
    assert len(names) == len(set(names)) and all(d.ours and d.model in MODELS for d in seen.devices)
    how = {d.name: (d.model, d.paravirtual) for d in seen.devices if d.kind in ("disk", "nic")}
    assert how == {
        "root": ("virtio-blk-pci", True), "disk1": ("virtio-blk-pci", True), "disk2": ("scsi-hd", True),
        "disk3": ("nvme", False), "lan": ("virtio-net-pci", True), "lan2": ("e1000e", False),
    }  # fmt: skip
    assert "virtio-balloon-pci" in {d.model for d in seen.devices}
    addresses = [d.address for d in seen.devices if d.address]
    assert len(addresses) == len(set(addresses)) and named(seen, "root").address.startswith("0000:")
    assert len(named(seen, "root").queues) >= 1 and not named(seen, "disk3").queues


async def test_histograms_hold_every_request(rig: Rig, driver: Driver) -> None:
    _, seen = await looked(driver, machine(rig))
    assert seen.bounds_us == BOUNDS_US
    for device in seen.devices:
        for requests in device.requests:
            if requests.kind != "discard":  # QEMU keeps none of those
                assert sum(requests.bins) == requests.total, (device.name, requests)


async def test_nobody_counts_of_a_vm_that_is_not_there(driver: Driver) -> None:
    with pytest.raises(NoSuchVm):
        await driver.io("nobody")


async def test_a_device_that_is_plugged_is_counted_from_then_on(rig: Rig, driver: Driver) -> None:
    spec = machine(rig)
    disk = replace(spec.disks[1], name="late", slot=5, file="web-1-late.qcow2", serial="late")
    spec = replace(spec, disks=(*spec.disks, disk))
    assert (await driver.fit(spec)).hardware is not None
    look, seen = await looked(driver, spec)
    late = named(seen, "late")
    # QEMU keeps a histogram of a device that there is: firmware may have read of it by then
    assert late.counted_by is CountedBy.QEMU and late.requests[0].bins and sum(late.requests[0].bins) <= late.requests[0].total
    await driver.fit(replace(spec, disks=spec.disks[:-1], leaving=(5,)))
    _, seen = await looked(driver, spec, look)
    assert "late" not in [d.name for d in seen.devices]


# --- a real guest ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(rig: Rig) -> QemuRig:
    if not isinstance(rig, QemuRig):
        pytest.skip("what a guest does is done by a real one")
    return rig


async def inside(driver: Driver, script: str) -> str:
    done = await driver.exec("web-1", ("sh", "-c", script), b"", GUEST_S)
    assert done.exit_code == 0, done
    return done.stdout.decode()


async def present(driver: Driver, path: str) -> None:
    """Until the guest's driver has made it: modules of disks are loaded after its agent's."""
    async with asyncio.timeout(GUEST_S):
        while (await driver.exec("web-1", ("test", "-e", path), b"", GUEST_S)).exit_code:
            pass


@pytest.mark.parametrize(("name", "file"), [("disk1", "vdb"), ("disk2", "sda"), ("disk3", "nvme0n1")])
async def test_what_is_written_is_counted_where_it_is_written(
    real: QemuRig, driver: Driver, name: str, file: str
) -> None:
    spec = machine(real)
    for each in ("vdb", "sda", "nvme0n1"):
        await present(driver, f"/dev/{each}")
        await inside(driver, f"head -c 512 /dev/{each} >/dev/null")  # which waits until its partitions were looked for
    look, before = await looked(driver, spec)
    written = f"dd if=/dev/zero of=/dev/{file} bs=64k count=64 oflag=direct"
    await inside(driver, f"{written} && dd if=/dev/{file} of=/dev/null bs=4k count=32 iflag=direct")
    _, seen = await looked(driver, spec, look)
    was, now = ({r.kind: r for r in named(each, name).requests} for each in (before, seen))
    assert (now["write"].total - was["write"].total, now["write"].bytes - was["write"].bytes) == (64, 4 * MIB)
    assert now["read"].total - was["read"].total == 32 and now["read"].bytes - was["read"].bytes == 32 * 4096
    assert now["write"].mibps > 0 and now["write"].mean_us > 0 and now["write"].p99_us != 0
    assert sum(now["write"].bins) == now["write"].total and now["write"].failed == 0
    others = [d.name for d in seen.devices if d.name not in (name, "root") and any(r.per_s for r in d.requests)]
    assert others == [], "no other disk did anything"
    assert "not counted by this accelerator (tcg)" in seen.intercepted and seen.exits == ()
    if named(seen, name).paravirtual:
        (ring,) = (q for q in named(seen, name).queues if q.name == "requests")
        assert ring.completed_per_s * seen.window_ms / 1000 == pytest.approx(96, abs=8), "and so says its ring"


async def test_what_is_sent_and_heard_is_counted(real: QemuRig, driver: Driver) -> None:
    spec = machine(real)
    await present(driver, "/sys/class/net/eth0/carrier")
    # no questions of IPv6 for itself and its routers, and no late answer to an earlier ping, among what is counted
    await inside(driver, "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6 || true; ip link set eth0 up")
    await inside(driver, "ip addr add 10.0.2.15/24 dev eth0; until ping -c1 -W20 10.0.2.2; do :; done")
    look, before = await looked(driver, spec)
    await inside(driver, "ping -c 3 -i 0.2 -s 1000 10.0.2.2")
    _, seen = await looked(driver, spec, look)
    was, now = ({p.kind: p for p in named(each, "lan").packets} for each in (before, seen))
    assert named(seen, "lan").counted_by is CountedBy.GUEST
    for kind in ("rx", "tx"):
        assert 3 <= now[kind].total - was[kind].total <= 8, "three pings, perhaps a question for an address"
        assert 3 * 1042 <= now[kind].bytes - was[kind].bytes < 3 * 1042 + 600
    assert {q.name for q in named(seen, "lan").queues} == {"rx", "tx", "control"}


async def test_a_device_plugged_by_hand_is_shown_as_foreign(real: QemuRig, driver: Driver) -> None:
    assert isinstance(driver, QemuDriver)
    vm = driver._fleet.vms["web-1"]
    await vm.do("device_add", {"driver": "virtio-rng-pci", "id": "mine", "bus": "port5"})
    _, seen = await looked(driver, machine(real))
    assert named(seen, "mine").model == "virtio-rng-pci" and named(seen, "mine").address.startswith("0000:")


async def test_a_ring_is_told_as_the_host_counts_where_no_agent_answers(real: QemuRig, driver: Driver) -> None:
    with contextlib.suppress(GuestSilent):  # it is to stop itself, and cannot say that it has
        await driver.exec("web-1", ("killall", "-STOP", "qemu-ga"), b"", 1.0)
    _, seen = await looked(driver, machine(real))
    lan = named(seen, "lan")
    assert lan.counted_by is CountedBy.QUEUE and "agent does not answer" in lan.note
    assert named(seen, "lan2").counted_by is CountedBy.NOBODY


async def test_kvm_counts_exits(tmp_path: Path) -> None:
    """Where KVM can be opened it counts, even where it is too slow for guests: the firmware alone makes exits."""
    if shutil.which("qemu-system-x86_64") is None or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no QEMU, or no /dev/kvm that may be opened")
    monitor, theirs = socket.socketpair()
    with monitor, theirs:
        words = ("-M", "q35", "-accel", "kvm", "-m", "64", "-nodefaults", "-display", "none")
        chardev = ("-chardev", f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control")
        process = await asyncio.create_subprocess_exec(
            "qemu-system-x86_64", *words, *chardev, cwd=tmp_path, pass_fds=(theirs.fileno(),)
        )  # fmt: skip
        try:
            qmp = Qmp(lambda event: None)
            await qmp.connect(monitor)
            exits: dict[str, int] = {}
            async with asyncio.timeout(GUEST_S):
                while not exits.get("exits"):
                    exits = await exits_of(qmp.execute)
            assert {"io_exits", "mmio_exits", "halt_exits"} <= set(exits)
            await qmp.close()
        finally:
            process.kill()
            await process.wait()
