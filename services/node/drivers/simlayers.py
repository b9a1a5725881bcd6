"""A part of SimHost: snapshots of VMs that run, and layers that are merged. A simulated guest's file systems stand still at once
where it has booted; a layer is merged at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from proto.hardware import Consistency, Took
from proto.machine import Disk, Freeze, MachineSpec, Taking
from services.node.drivers import DriverError, simhome
from services.node.drivers.simpool import Holder
from services.node.drivers.simvm import SimVm

if TYPE_CHECKING:
    from services.node.drivers.simhost import SimHost

FROZEN_MS = 3


def fit(host: SimHost, vm: SimVm, wish: MachineSpec, now_us: int) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The files of each disk that is to have layers, as they are then."""
    has = {disk.slot: disk for disk in vm.spec.disks}
    new = [d for d in wish.disks if d.layers and d.slot in has and has[d.slot].file == d.layers[0].file]
    if new:
        _take(host, vm, new, wish.taking or Taking(token=""), now_us)
    has = {disk.slot: disk for disk in vm.spec.disks}
    layered = [d for d in wish.disks if d.layers and d.slot in has and has[d.slot].file == d.file]
    holder = Holder(host.node, vm.spec.vm, vm.spec.generation)
    for disk in layered:
        if not simhome.recovered((disk,)):
            host.pool.merge(disk, holder)
    seen = [(d.slot, host.pool.chain(d)) for d in layered]
    untaken = [(d.slot, host.pool.chain(has[d.slot])) for d in wish.disks if d.layers and d not in layered and d.slot in has]
    return tuple(sorted([*seen, *untaken]))


def _take(host: SimHost, vm: SimVm, wanted: list[Disk], taking: Taking, now_us: int) -> None:
    if vm.took is not None and vm.took.failed and vm.took.token == taking.token:
        return
    frozen = taking.freeze is not Freeze.NO and host.booted(vm.spec.vm, now_us)
    said = "" if frozen or taking.freeze is Freeze.NO else "its guest's agent did not answer"
    if taking.freeze is Freeze.REQUIRE and not frozen:
        vm.took = Took(token=taking.token, failed=True, sentence=said)
        return
    by_slot = {disk.slot: disk for disk in wanted}
    for disk in wanted:
        try:
            host.pool.top(disk)
        except DriverError as error:
            vm.took = Took(token=taking.token, failed=True, sentence=str(error))
            return
    vm.spec = replace(vm.spec, disks=tuple(by_slot.get(d.slot, d) for d in vm.spec.disks))
    host.pool.open(vm.spec, Holder(host.node, vm.spec.vm, vm.spec.generation))
    kind = Consistency.FILESYSTEM if frozen else Consistency.CRASH
    ms = FROZEN_MS if frozen else 0
    vm.took = Took(token=taking.token, consistency=kind, frozen_ms=ms, took_ms=ms + 1, sentence=said)
