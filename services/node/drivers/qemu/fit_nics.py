"""NICs of a running VM: plugged with their network, unplugged, and their cable pulled or put in."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING

from proto.hardware import Misfit
from proto.machine import MachineSpec, Nic, NicKind
from services.node.drivers import DriverError
from services.node.drivers.qemu import argv, devices
from services.node.drivers.qemu.announce import announce
from services.node.drivers.qemu.devices import device_id, nic_id
from services.node.drivers.qemu.fitting import misfits

if TYPE_CHECKING:
    from services.node.drivers.qemu.launch import Host
    from services.node.drivers.qemu.machine import RunningVm

_DEVICE = re.compile(r"nic([0-9]+)-dev")


async def fit(vm: RunningVm, host: Host, spec: MachineSpec, found: list[Misfit]) -> None:
    """Raises DriverError where QEMU cannot be asked what there is."""
    there = await slots(vm)
    wanted = {n.slot: n for n in spec.nics}
    for slot in sorted(set(spec.leaving)):
        async with misfits(found, "nic", slot):
            if said := (await vm.fitting.unplug(device_id(nic_id(slot))) if slot in there else ""):
                found.append(Misfit(what="nic", slot=slot, sentence=said, pending=True))
            else:
                await vm.fitting.away("netdev_del", {"id": nic_id(slot)})
    ports = argv.ports(spec)
    for slot, nic in sorted(wanted.items()):
        async with misfits(found, "nic", slot):
            if slot not in there:
                if slot not in ports:
                    raise DriverError(f"{spec.vm} has no free PCI port {slot}; it gets more at its next restart")
                await _plug(vm, host, nic)
            await link(vm, nic)


async def link(vm: RunningVm, nic: Nic) -> None:
    """Its cable is put in, or pulled. Raises DriverError."""
    await vm.do("set_link", {"name": device_id(nic_id(nic.slot)), "up": nic.link})


async def slots(vm: RunningVm) -> set[int]:
    """Raises DriverError."""
    return {int(m[1]) for name in await vm.fitting.devices() if (m := _DEVICE.fullmatch(name))}


async def _plug(vm: RunningVm, host: Host, nic: Nic) -> None:
    """Raises DriverError, OSError; then nothing of it is left."""
    id = nic_id(nic.slot)
    queues = await _tap(vm, host, nic) if nic.kind is NicKind.BRIDGE else []
    await vm.fitting.away("netdev_del", {"id": id})  # of a try that was cut short
    await vm.do("netdev_add", devices.nic_backend(nic, queues))
    try:
        await vm.do("device_add", devices.nic_device(nic))
    except DriverError:
        await vm.fitting.away("netdev_del", {"id": id})
        raise
    await announce(vm, device_id(id))


async def _tap(vm: RunningVm, host: Host, nic: Nic) -> list[str]:
    """The queues of a new tap, as QEMU is to call them. Raises DriverError, OSError."""
    fds = await asyncio.to_thread(host.networks.open_tap, nic)
    names = [f"tap-{nic_id(nic.slot)}-{number}" for number in range(len(fds))]
    try:
        for name, fd in zip(names, fds, strict=True):
            await vm.give(name, fd)
    finally:
        for fd in fds:
            os.close(fd)
    return names
