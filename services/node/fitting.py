"""What an agent does so that a running VM has the hardware that is ordered. Pure; a part of model.Agent.

A start gives a VM all of it. From then on the driver is asked to fit it whenever an order names another size, disk or NIC than
the last fit did, or that it is to be guarded, once after an adoption (an earlier agent may have been cut short), and again, ever
less often, while the guest has not done what it was asked; a guest that was reset is asked at once. A guest that stands still or
is on its way to another node is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.hardware import leaving, ordered
from proto.machine import MachineSpec
from proto.node import OrderVm, Want
from services.node import drift
from services.node.drivers import Machine

if TYPE_CHECKING:
    from services.node.vm import Vm

AGAIN_US = 5_000_000
"""before a guest that has not done what it was asked is asked again; doubled each time"""
AGAIN_MAX_US = 300_000_000


def born(vm: Vm, spec: MachineSpec | None, machine: Machine | None, now_us: int) -> None:
    """It was started, and is as its order said."""
    vm.fitted, vm.refit_us, vm.refits = spec, 0, 0
    if spec is not None and any(leaving(disk) for disk in spec.disks):
        vm.refit_us = 1  # no start merges layers
    vm.hardware = None if spec is None or machine is None else ordered(spec)
    vm.drifts, vm.look_us, vm.repairs, vm.repair_us = None, now_us + drift.LOOK_US, 0, 0


def wanted(vm: Vm, order: OrderVm, machine: Machine, now_us: int) -> bool:
    """Whether the driver is to fit it to its order now."""
    spec = order.spec
    if spec is None or order.want is not Want.RUNNING or machine.status != "running" or machine.sending:
        return False
    same = vm.fitted is not None and _hardware(vm.fitted) == _hardware(spec)
    return not same or 0 < vm.refit_us <= now_us


def guards(vm: Vm, spec: MachineSpec) -> bool:
    """The watchdog is to guard it from this fit on, as far as is known: it begins under a lease that is held, as a start does."""
    return spec.protected and (vm.fitted is None or not vm.fitted.protected)


def done(vm: Vm, machine: Machine | None, now_us: int) -> None:
    """The driver has fitted it, as far as it could."""
    soon, vm.stirred = vm.stirred, False
    vm.fitted, vm.refit_us, vm.look_us = vm.fitting, 0, now_us + drift.SOON_US
    if machine is None or machine.hardware is None:
        return
    vm.hardware = machine.hardware
    if any(misfit.pending for misfit in machine.hardware.misfits):
        vm.refit_us = now_us + (0 if soon else min(AGAIN_US << min(vm.refits, 10), AGAIN_MAX_US))
        vm.refits += 1
    else:
        vm.refits = 0


def stirred(vm: Vm, now_us: int) -> None:
    """What was pending may be done."""
    vm.stirred = vm.busy == "fit"
    if vm.refit_us:
        vm.refit_us = now_us


def reset(vm: Vm, now_us: int) -> None:
    """Its guest begins anew, and lets go of what it held."""
    if vm.refit_us:
        vm.refit_us, vm.refits = now_us, 0


def _hardware(spec: MachineSpec) -> tuple[object, ...]:
    shape = spec.shape
    size = shape.vcpus, shape.memory_mib, spec.born, spec.dimms_mib
    return *size, spec.disks, spec.nics, spec.leaving, spec.taking, spec.protected
