"""What is wanted of a VM beside what is seen of it: the one next thing to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from proto.compute import GoneCause
from proto.node import OrderVm, Want
from proto.space import PoolNow
from services.node import drift, fitting, moving, space
from services.node.drivers import NO_SPACE, PANICKED, Machine
from services.node.effects import Kept
from services.node.vm import Vm, stamp


def next_step(vm: Vm, now_us: int, pools: Mapping[str, PoolNow]) -> str | Kept:
    """A verb; what has to be on disk before anything is done; empty where nothing is to be done."""
    order, machine = vm.order, vm.machine
    if moving.has_left(vm):
        return "kill"
    if vm.disowned and machine is not None:
        return "kill"
    if vm.unseen and machine is not None and machine.status == PANICKED:
        return "witness"
    if order is None:
        return _reaped(vm, machine) if machine is not None else ""
    if machine is not None and machine.generation < order.generation:
        return "kill"
    if stamp(order) > vm.kept.stamp:
        same = vm.kept.generation == order.generation
        launched, sent = same and vm.kept.launched, vm.kept.sent if same else 0
        has = order.spec or (vm.kept if same else None)
        disks, nics = (has.disks, has.nics) if has is not None else ((), ())
        return Kept(order.vm, order.generation, order.version, launched, order.incarnation, sent, disks, nics)
    if order.want is Want.GONE:
        return (_ended(vm, order, machine, now_us) or _room(vm, order, machine, now_us, pools)) if machine is not None else ""
    if machine is None:
        return "start"
    return _adjusted(vm, order, machine, now_us) or _room(vm, order, machine, now_us, pools)


def _room(vm: Vm, order: OrderVm, machine: Machine, now_us: int, pools: Mapping[str, PoolNow]) -> str:
    return space.next_step(vm, order, pools, now_us) if machine.status == NO_SPACE else ""


def _adjusted(vm: Vm, order: OrderVm, machine: Machine, now_us: int) -> str | Kept:
    step = moving.next_step(vm, order, machine, now_us)
    if step is not None:
        return step
    if machine.status == "shutdown":
        return _reaped(vm, machine)
    if vm.resets < order.resets:
        return "reset"
    if order.want is Want.PAUSED and machine.status == "running":
        return "pause"
    if order.want is Want.RUNNING and machine.status == "paused":
        return "resume"
    if fitting.wanted(vm, order, machine, now_us):
        return "fit"
    return "look" if drift.due(vm, order, machine, now_us) else ""


def _ended(vm: Vm, order: OrderVm, machine: Machine, now_us: int) -> str:
    deadline_us = vm.asked_us + order.deadline_s * 1_000_000
    deaf = machine.status in ("shutdown", "incoming", "sent")
    if order.deadline_s == 0 or deaf or (vm.asked_us and now_us >= deadline_us):
        return "kill"
    if not vm.asked_us:
        vm.asked_us = now_us
        return "shutdown"
    return ""


def _reaped(vm: Vm, machine: Machine) -> str:
    """A guest that powered off leaves a process to end."""
    if machine.status != "shutdown":
        return ""
    vm.cause = GoneCause.GUEST
    return "kill"
