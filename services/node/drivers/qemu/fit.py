"""A running VM is made like its specification: what is missing is plugged, what is too much unplugged, the rest set.

    fit ─┬─ disks   unplug · file, nodes, device · size · limits        fit_disks.py
         ├─ layers  snapshots taken, layers merged                      fit_layers.py
         ├─ media   tray, node, medium of CD drives                     fit_cds.py
         ├─ NICs    unplug · backend, device · link                     fit_nics.py
         ├─ memory  virtio-mem's requested size, or DIMMs               fit_memory.py
         └─ vCPUs   the lowest free core first, and online inside       fit_cpus.py; emulated ones: fit_emulated.py

Each step looks at what is there first, so that one that was cut short (the agent died between any two commands) is gone on
with, and one that was done is not done again. What cannot be had is a Misfit with its reason; all else holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proto.hardware import Hardware, Misfit
from proto.machine import DiskLimits, MachineSpec
from services.node.drivers.qemu import fit_cds, fit_cpus, fit_disks, fit_layers, fit_memory, fit_nics, io_count
from services.node.drivers.qemu.fitting import misfits
from services.node.drivers.qemu.launch import Host

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm


async def fit(vm: RunningVm, host: Host, spec: MachineSpec) -> Hardware:
    """See the module. Raises DriverError where QEMU cannot be asked at all."""
    found: list[Misfit] = []
    await fit_disks.fit(vm, host, spec, found)
    chains = await fit_layers.fit(vm, host, spec, found)
    await fit_nics.fit(vm, host, spec, found)
    if spec.born is not None:
        async with misfits(found, "memory"):
            await fit_memory.fit(vm, spec, found)
        async with misfits(found, "vcpus"):
            await fit_cpus.fit(vm, spec, found)
    has = await look(vm, tuple(found))
    took = vm.record.took if spec.taking is not None else None
    return msgspec.structs.replace(has, chains=tuple(sorted(chains.items())), took=took)


async def born(vm: RunningVm, spec: MachineSpec) -> None:
    """Before its first instruction: what a command line does not say. Raises DriverError."""
    await io_count.time_all(vm)
    for disk in spec.disks:
        if disk.limits != DiskLimits():
            await fit_disks.limit(vm, disk)
    for nic in spec.nics:
        if not nic.link:
            await fit_nics.link(vm, nic)


async def look(vm: RunningVm, found: tuple[Misfit, ...] = ()) -> Hardware:
    """What it has now. Raises DriverError."""
    plugged, usable = await fit_cpus.count(vm)
    disk_mib, nics = await fit_disks.sizes_mib(vm), await fit_nics.slots(vm)
    there = await fit_disks.slots(vm)
    return Hardware(
        vcpus=usable,
        plugged_vcpus=plugged,
        memory_mib=await fit_memory.size_mib(vm),
        slots=tuple(sorted({*there, *nics})),
        media=await fit_cds.media(vm),
        disk_mib=tuple(sorted(disk_mib.items())),
        misfits=found,
        dimms_mib=await fit_memory.dimms_mib(vm),
    )
