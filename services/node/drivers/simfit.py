"""A part of SimHost: the hardware of VMs that run. A simulated guest takes what it is given at once, and lets go of what it is
asked for unless it `ignores_unplug`: then at its next reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from proto.hardware import Hardware, Misfit, ordered
from proto.machine import Disk, MachineSpec, Nic
from proto.models import DISKS, NICS
from services.node.drivers import CannotMove, CannotStart, Locked, NoSuchVm, simhome, simlayers, simnet
from services.node.drivers.present import DiskPresent, NicPresent, Present
from services.node.drivers.simpool import Holder
from services.node.drivers.simvm import Due, SimDone, SimVm

if TYPE_CHECKING:
    from services.node.drivers.simhost import SimHost


def fit(host: SimHost, due: Due, vm: SimVm | None) -> SimDone:
    wish = due.spec
    assert wish is not None
    if vm is None or vm.spec.generation != wish.generation:
        return SimDone(due.vm, "fit", NoSuchVm(f"no generation {wish.generation} of {due.vm} on {host.node}"))
    if vm.status in ("incoming", "sent"):
        return SimDone(due.vm, "fit", CannotMove(f"{due.vm} is {vm.status}: nothing is plugged into it"))
    found: list[Misfit] = []
    keeps = host.random.random() < host.params.ignores_unplug
    _unplug(host, vm, wish, keeps, found)
    simhome.fit(host, vm, wish, due.at_us, found)
    chains = simlayers.fit(host, vm, wish, due.at_us)
    _plug(host, vm, wish, found)
    if wish.born is not None:
        shape = replace(vm.spec.shape, vcpus=wish.shape.vcpus, memory_mib=wish.shape.memory_mib)
        vm.spec = replace(vm.spec, shape=shape, dimms_mib=wish.dimms_mib)
        vm.plugged_vcpus = max(vm.plugged_vcpus, shape.vcpus)
    vm.spec = replace(vm.spec, protected=wish.protected)
    hardware = replace(_hardware(vm, tuple(found)), chains=chains, took=vm.took if wish.taking is not None else None)
    return SimDone(due.vm, "fit", machine=replace(vm.machine(), hardware=hardware))


def look(host: SimHost, due: Due, vm: SimVm | None) -> SimDone:
    if vm is None or vm.starting:
        return SimDone(due.vm, "look", NoSuchVm(f"no process of {due.vm} on {host.node}"))
    spec = vm.spec
    present = Present(
        vcpus=max(vm.plugged_vcpus, spec.plugged_vcpus, spec.shape.vcpus),
        memory_mib=spec.shape.memory_mib,
        disks=tuple(
            DiskPresent(d.slot, DISKS[d.bus].driver, d.size_mib, d.file, d.limits, d.image if d.bus.is_cd else "")
            for d in spec.disks
        ),
        nics=tuple(NicPresent(n.slot, NICS[n.model].driver, n.mac, n.link) for n in spec.nics),
        foreign=vm.foreign,
    )
    return SimDone(due.vm, "look", machine=replace(vm.machine(), present=present))


def emptied(host: SimHost, vm: SimVm) -> None:
    """At a reset: what it was asked to let go is gone."""
    _unplug(host, vm, replace(vm.spec, leaving=tuple(sorted(vm.held))), False, [])


def _hardware(vm: SimVm, found: tuple[Misfit, ...] = ()) -> Hardware:
    return replace(ordered(replace(vm.spec, plugged_vcpus=vm.plugged_vcpus)), misfits=found)


def _unplug(host: SimHost, vm: SimVm, wish: MachineSpec, keeps: bool, found: list[Misfit]) -> None:
    leaving = {d.slot: "disk" for d in vm.spec.disks if d.slot in wish.leaving}
    leaving |= {n.slot: "nic" for n in vm.spec.nics if n.slot in wish.leaving}
    if keeps and leaving:
        vm.held = set(leaving)
        said = "the guest has not let it go"
        found += [Misfit(what=what, slot=slot, sentence=said, pending=True) for slot, what in sorted(leaving.items())]
        return
    gone = tuple(d for d in vm.spec.disks if d.slot in leaving)
    vm.spec = replace(
        vm.spec,
        disks=tuple(d for d in vm.spec.disks if d.slot not in leaving),
        nics=tuple(n for n in vm.spec.nics if n.slot not in leaving),
    )
    vm.held = set()
    host.pool.close(Holder(host.node, vm.spec.vm, vm.spec.generation), only=gone)


def _plug(host: SimHost, vm: SimVm, wish: MachineSpec, found: list[Misfit]) -> None:
    disks = {d.slot: d for d in vm.spec.disks}
    nics = {n.slot: n for n in vm.spec.nics}
    for disk in wish.disks:
        if disk.slot in nics:
            continue
        if disk.bus.is_cd:
            disks[disk.slot] = disk
            continue
        if (was := disks.get(disk.slot)) is not None:
            as_wanted = disk if was.file == disk.file else replace(disk, file=was.file, layers=was.layers)
            disks[disk.slot] = _grown(was, as_wanted, found)
            continue
        try:
            host.pool.open(replace(vm.spec, disks=(disk,)), Holder(host.node, vm.spec.vm, vm.spec.generation))
        except Locked as locked:
            found.append(Misfit(what="disk", slot=disk.slot, sentence=str(locked)))
            continue
        disks[disk.slot] = disk
    for nic in wish.nics:
        try:
            if nic.slot not in nics:
                simnet.check((nic,), host.bridges)
        except CannotStart as refused:
            found.append(Misfit(what="nic", slot=nic.slot, sentence=str(refused)))
            continue
        if nic.slot not in disks:
            nics[nic.slot] = nic
    vm.spec = replace(vm.spec, disks=_sorted(disks), nics=_sorted(nics))


def _grown(was: Disk, wanted: Disk, found: list[Misfit]) -> Disk:
    if wanted.size_mib > was.size_mib and not DISKS[wanted.bus].grows:
        said = f"the guest does not see a larger {wanted.bus} disk while it runs; it does after a restart"
        found.append(Misfit(what="disk", slot=wanted.slot, sentence=said))
        return replace(wanted, size_mib=was.size_mib)
    return replace(wanted, size_mib=max(was.size_mib, wanted.size_mib))


def _sorted[T: (Disk, Nic)](devices: dict[int, T]) -> tuple[T, ...]:
    return tuple(device for _, device in sorted(devices.items()))
