"""What a running VM's process has otherwise than its order says, by whoever's hand: looked at, told, and set right where that is
safe. Pure; a part of model.Agent.

    a look every LOOK_US, and soon after each fit; what differs is told, and told once at least before it counts as gone
    what `fit` makes right it is asked to, ever less often while it does not last
    what could hurt its guest or somebody's work stays: a device that nobody ordered, a disk of another file or larger
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from proto.hardware import Drift, Hardware
from proto.machine import Disk, DiskLimits, MachineSpec, Nic
from proto.models import DISKS, NICS
from proto.node import OrderVm, Want
from services.node.drivers import Machine
from services.node.drivers.present import DiskPresent, NicPresent, Present

if TYPE_CHECKING:
    from services.node.vm import Vm

LOOK_US = 15_000_000
SOON_US = 1_000_000
"""after a fit, and while a difference was not heard of yet"""
REPAIR_MAX_US = 300_000_000
DRIFTS_MAX = 16
NOT_ORDERED = "nobody ordered it: unplug it by hand, or restart the VM"


def due(vm: Vm, order: OrderVm, machine: Machine, now_us: int) -> bool:
    """Whether to look now. A VM that was not made like its order yet is not looked at."""
    steady = order.want is Want.RUNNING and machine.status == "running" and not machine.sending
    return steady and vm.fitted is not None and 0 < vm.look_us <= now_us


def looked(vm: Vm, machine: Machine | None, now_us: int) -> bool:
    """A look has ended. Whether it has news for the log."""
    vm.look_us = now_us + LOOK_US
    if machine is None or machine.present is None or vm.fitted is None:
        return False
    found = differences(vm.fitted, vm.hardware, machine.present)
    if not found and vm.drifts and vm.heard < vm.drifted:
        vm.look_us = now_us + SOON_US  # it was otherwise, and that was not heard of yet
        return False
    if any(drift.repaired for drift in found) and vm.repair_us <= now_us:
        vm.repair_us = now_us + min(LOOK_US << min(vm.repairs, 5), REPAIR_MAX_US)
        vm.repairs += 1
        vm.fitted = None
    elif not found and vm.repair_us <= now_us:
        vm.repairs = 0
    if found == vm.drifts:
        return False
    vm.drifts, vm.drifted = found, vm.serial + 1
    return True


def differences(spec: MachineSpec, hardware: Hardware | None, present: Present) -> tuple[Drift, ...]:
    """hardware: what was seen after the last fit; what could not be had by then is told there."""
    misfits = hardware.misfits if hardware is not None else ()
    faulty = {misfit.slot for misfit in misfits if misfit.slot >= 0} | set(spec.leaving)
    known = {d.slot for d in spec.disks} | {n.slot for n in spec.nics} | faulty
    found = [*_sizes(spec, hardware, present)]
    disks, nics = {d.slot: d for d in present.disks}, {n.slot: n for n in present.nics}
    for disk in spec.disks:
        if disk.slot not in faulty:
            found += _of_disk(disk, disks.get(disk.slot))
    for nic in spec.nics:
        if nic.slot not in faulty:
            found += _of_nic(nic, nics.get(nic.slot))
    strange = [(f"disk{d.slot}", d.model, d.slot) for d in present.disks if d.slot not in known]
    strange += [(f"nic{n.slot}", n.model, n.slot) for n in present.nics if n.slot not in known]
    strange += [(id, model, -1) for id, model in present.foreign]
    found += [
        Drift(what="device", name=name, slot=slot, sentence=f"{name} ({model}) is in its process, and {NOT_ORDERED}")
        for name, model, slot in strange
    ]
    return tuple(found[:DRIFTS_MAX])


def _sizes(spec: MachineSpec, hardware: Hardware | None, present: Present) -> Iterator[Drift]:
    if spec.born is None:
        return
    faults = {misfit.what for misfit in hardware.misfits} if hardware is not None else set()
    wanted, plugged = spec.shape.vcpus, max(spec.shape.vcpus, spec.plugged_vcpus)
    plugged = max(plugged, hardware.plugged_vcpus if hardware is not None else 0)
    if "vcpus" not in faults and not wanted <= present.vcpus <= plugged:
        said = f"{present.vcpus} vCPUs are plugged, {wanted} are wanted"
        yield Drift(what="vcpus", name="vcpus", sentence=said, repaired=True)
    if "memory" not in faults and present.memory_mib != spec.shape.memory_mib:
        said = f"its guest was told to have {present.memory_mib} MiB, {spec.shape.memory_mib} are wanted"
        yield Drift(what="memory", name="memory", sentence=said, repaired=True)


def _of_disk(disk: Disk, seen: DiskPresent | None) -> Iterator[Drift]:
    def drift(said: str, repaired: bool = False) -> Drift:
        return Drift(what="disk", name=disk.name, slot=disk.slot, sentence=f"{disk.name} {said}", repaired=repaired)

    model = DISKS[disk.bus]
    if seen is None:
        yield drift("is not plugged (any more)", True)
        return
    if seen.model != model.driver:
        yield drift(f"is a {seen.model} in place of a {model.driver}; restart the VM")
        return
    if disk.bus.is_cd:
        if seen.medium != disk.image:
            yield drift(f"holds {seen.medium or 'nothing'} in place of {disk.image or 'nothing'}", True)
        return
    untaken = disk.layers[0].file if disk.layers else ""  # a snapshot that is not, or could not be, taken yet
    if seen.file and seen.file not in (disk.file, untaken):
        yield drift(f"stands on {seen.file} in place of {disk.file}; restart the VM")
    if seen.size_mib > disk.size_mib:
        yield drift(f"has {seen.size_mib} MiB in place of {disk.size_mib}; disks only grow: resize it to that")
    elif 0 < seen.size_mib < disk.size_mib:
        yield drift(f"has {seen.size_mib} MiB in place of {disk.size_mib}", model.grows)
    if seen.limits != disk.limits:
        yield drift(f"is limited to {_limits(seen.limits)} in place of {_limits(disk.limits)}", True)


def _limits(limits: DiskLimits | None) -> str:
    if limits is None:
        return "something that no order says"
    said = [f"{value} {name}" for name in limits.__struct_fields__ if (value := getattr(limits, name))]
    return ", ".join(said) or "nothing"


def _of_nic(nic: Nic, seen: NicPresent | None) -> Iterator[Drift]:
    def drift(said: str, repaired: bool = False) -> Drift:
        return Drift(what="nic", name=nic.name, slot=nic.slot, sentence=f"{nic.name} {said}", repaired=repaired)

    model = NICS[nic.model]
    if seen is None:
        yield drift("is not plugged (any more)", True)
        return
    if seen.model != model.driver or (seen.mac and seen.mac != nic.mac):
        yield drift(f"is a {seen.model} with {seen.mac} in place of a {model.driver} with {nic.mac}; restart the VM")
    if seen.link is not None and seen.link != nic.link:
        yield drift(f"has its cable {'in' if seen.link else 'out'}; it is wanted {'in' if nic.link else 'out'}", True)
