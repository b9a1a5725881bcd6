"""Disks of a running VM: plugged with their files and block nodes, unplugged with them, grown, and limited."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from proto.hardware import Misfit
from proto.machine import Disk, DiskFormat, MachineSpec
from proto.models import DISKS
from services.node.drivers import DriverError
from services.node.drivers.qemu import argv, chains, devices, disks, fit_cds, io_count, launch, lease, making, origins
from services.node.drivers.qemu.argv import MIB
from services.node.drivers.qemu.devices import LIMIT_KEYS, device_id, disk_id
from services.node.drivers.qemu.fitting import PERIPHERAL, misfits
from services.node.drivers.qemu.process import host_boot_id, uid_for

if TYPE_CHECKING:
    from services.node.drivers.qemu.launch import Host
    from services.node.drivers.qemu.machine import RunningVm

CLEAR_S_MAX = 1.0
AGAIN_S = 0.01
_DEVICE = re.compile(r"disk([0-9]+)-dev")


async def fit(vm: RunningVm, host: Host, spec: MachineSpec, found: list[Misfit]) -> None:
    """Raises DriverError where QEMU cannot be asked what there is."""
    there = _slots(await vm.fitting.devices())
    wanted = {d.slot: d for d in spec.disks}
    for slot in sorted(set(spec.leaving)):
        async with misfits(found, "disk", slot):
            await _unplug(vm, slot, found, there=slot in there)
    sizes = await sizes_mib(vm)
    ports = argv.ports(spec)
    for slot, disk in sorted(wanted.items()):
        async with misfits(found, "disk", slot):
            if disk.bus.is_cd and slot in there:
                await _change_medium(vm, host, spec, disk, found)
                continue
            if slot not in there:
                if slot not in ports:
                    raise DriverError(f"{spec.vm} has no free PCI port {slot}; it gets more at its next restart")
                await _plug(vm, host, spec, disk)
            elif sizes.get(slot, disk.size_mib) < disk.size_mib:
                if not DISKS[disk.bus].grows:
                    raise DriverError(f"the guest does not see a larger {disk.bus} disk while it runs; it does after a restart")
                top = (await chains.chains(vm))[slot].nodes[0]
                await vm.do("block_resize", {"node-name": top, "size": disk.size_mib * MIB})
            if not disk.bus.is_cd:
                await limit(vm, disk)


async def slots(vm: RunningVm) -> set[int]:
    """In which a disk or a CD drive is. Raises DriverError."""
    return _slots(await vm.fitting.devices())


async def sizes_mib(vm: RunningVm) -> dict[int, int]:
    """Of the disk in each slot that has one. Raises DriverError."""
    sizes = {}
    for block in await vm.do("query-block"):
        inserted: dict[str, Any] = block.get("inserted") or {} if "tray_open" not in block else {}
        for word in str(block.get("qdev", "")).split("/") if inserted else ():
            if m := _DEVICE.fullmatch(word):
                sizes[int(m[1])] = -(-int(inserted["image"]["virtual-size"]) // MIB)
    return dict(sorted(sizes.items()))


async def limit(vm: RunningVm, disk: Disk) -> None:
    """Raises DriverError."""
    words = devices.limits(disk)
    had = await _limits(vm, disk.slot)
    if had is not None and all(had.get(key, 0) == words.get(key, 0) for key in (*LIMIT_KEYS, "bps_max", "iops_max")):
        return
    path = f"{PERIPHERAL}/{device_id(disk_id(disk.slot))}"
    await vm.do("block_set_io_throttle", {"id": await _throttled(vm, path), **words})


async def _throttled(vm: RunningVm, path: str) -> str:
    """virtio-blk has its back end inside."""
    found = await vm.do("qom-list", {"path": path})
    return f"{path}/virtio-backend" if any(p["name"] == "virtio-backend" for p in found) else path


async def _limits(vm: RunningVm, slot: int) -> dict[str, Any] | None:
    id = device_id(disk_id(slot))
    for block in await vm.do("query-block"):
        if id in str(block.get("qdev", "")).split("/") and "inserted" in block:
            return dict(block["inserted"])
    return None


def _slots(names: set[str]) -> set[int]:
    return {int(m[1]) for name in names if (m := _DEVICE.fullmatch(name))}


async def _plug(vm: RunningVm, host: Host, spec: MachineSpec, disk: Disk) -> None:
    """Raises DriverError, OSError; then its nodes are taken away again (its file stays: it may hold data)."""
    if disk.bus.is_cd:
        await _plug_cd(vm, host, spec, disk)
        return
    if origins.any_of((disk,)):
        raise DriverError(origins.OF_A_RUNNING)
    folder = await _reach(vm, host, spec, disk)
    remote = host.remotes.get(disk.pool)
    on_file = disk.image and disk.format is DiskFormat.QCOW2 and remote is None
    base = disks.base_of(host.pools[disk.pool], disk.image) if on_file else None
    if disk.layers:
        beneath = await asyncio.to_thread(making.ready, host, disk, base, uid_for(spec.vm))
    else:
        await asyncio.to_thread(making.make, host, disk, base, uid_for(spec.vm))
        beneath = (base,) if base is not None else ()
    await _clear(vm, disk.slot)
    try:
        for node in devices.disk_nodes(disk, folder, disk.pool in host.direct, beneath, remote):
            await vm.do("blockdev-add", node)
        for device in devices.disk_devices(disk):
            await vm.do("device_add", device)
        await io_count.time_all(vm)
    except DriverError:
        await _clear(vm, disk.slot)
        raise


async def _plug_cd(vm: RunningVm, host: Host, spec: MachineSpec, disk: Disk) -> None:
    """A drive; what is to lie in it is put in afterwards, as at any time. Raises DriverError, OSError."""
    if not DISKS[disk.bus].plugs:
        raise DriverError(f"a {disk.bus} is on a controller of the board: {spec.vm} has it after its next restart")
    await _clear(vm, disk.slot)
    try:
        for device in devices.cd_devices(msgspec.structs.replace(disk, image="", file=""), 0):
            await vm.do("device_add", device)
    except DriverError:
        await _clear(vm, disk.slot)
        raise
    await _change_medium(vm, host, spec, disk, [])


async def _change_medium(vm: RunningVm, host: Host, spec: MachineSpec, disk: Disk, found: list[Misfit]) -> None:
    folder = await _reach(vm, host, spec, disk) if disk.image or disk.file else ""
    await fit_cds.change(vm, host, disk, folder, found)


async def _reach(vm: RunningVm, host: Host, spec: MachineSpec, disk: Disk) -> str:
    """The pool's folder in the words of this QEMU. A pool that is new to the VM gets its lease and lock first, as at a start.
    Raises DriverError, OSError."""
    pool = host.pools.get(disk.pool)
    if pool is None:
        raise DriverError(f"this node has no pool {disk.pool!r}; it has {', '.join(sorted(host.pools))}")
    pid = vm.process.pid
    if not await asyncio.to_thread(lease.holds, pool, spec.vm, pid):
        wanted = lease.Lease(spec.vm, vm.record.generation, host.node, host_boot_id())
        await asyncio.to_thread(lease.take, pool, wanted)
        await _give(vm, f"running-{disk.pool}", await asyncio.to_thread(lease.hold, pool, spec.vm))
    if disk.pool in host.remotes:
        return ""  # of its folder, QEMU needs only the lock
    return await asyncio.to_thread(launch.seen_by, pool, pid, uid_for(spec.vm)) or await _open_pool(vm, disk.pool, pool)


async def _open_pool(vm: RunningVm, name: str, pool: os.PathLike[str]) -> str:
    raise DriverError(
        f"pool {name!r} at {pool} cannot be passed by the VM's user, and was not handed over at its start; restart the VM"
    )


async def _give(vm: RunningVm, name: str, fd: int) -> None:
    try:
        await vm.give(name, fd)
    finally:
        os.close(fd)


async def _unplug(vm: RunningVm, slot: int, found: list[Misfit], *, there: bool) -> None:
    """Also where the device alone is gone: with its guest's restart, or because an agent died behind it."""
    said = await vm.fitting.unplug(device_id(disk_id(slot))) if there else ""
    if said := said or await _clear(vm, slot):
        found.append(Misfit(what="disk", slot=slot, sentence=said, pending=True))


async def _clear(vm: RunningVm, slot: int) -> str:
    """What is below a disk, and beside it, of which no device is left. What of it is still there; "": nothing. QEMU lets go of the
    nodes a moment after their device has gone, and says nothing of that."""
    id, said = disk_id(slot), ""
    if f"{id}-bus" in await vm.fitting.devices():
        said = await vm.fitting.unplug(f"{id}-bus")
    end = asyncio.get_running_loop().time() + CLEAR_S_MAX
    while True:
        for node in await chains.left(vm, slot, None):
            await vm.fitting.away("blockdev-del", {"node-name": node})
        await fit_cds.clear(vm, slot)
        if not await chains.left(vm, slot, None):
            return said
        if asyncio.get_running_loop().time() >= end:
            return said or "its guest has let it go, but QEMU has not closed its file: stop and start the VM"
        await asyncio.sleep(AGAIN_S)
