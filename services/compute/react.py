"""When memory or io has answered, tell the VM; while a VM is wanted on a node, order its agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.host.service import Order
from libs.common.messages import Command, Recorded
from proto.compute import NoteDevices, NoteMemory
from proto.io import DevicesDenied, DevicesGranted
from proto.memory import MemoryDenied, MemoryReserved
from proto.node import OrderVm, Want
from services.compute.states import Launching, Running, Stopping


def react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    match event:
        case MemoryReserved():
            return [NoteMemory(vm=event.vm, node=event.node, generation=event.generation, granted=True)]
        case MemoryDenied():
            free = max(0, event.capacity_mib - event.reserved_mib)
            said = f"{event.node} has {free} of {event.capacity_mib} MiB free; {event.memory_mib} MiB needed, QEMU's own included"
            return [NoteMemory(vm=event.vm, node=event.node, generation=event.generation, granted=False, sentence=said)]
        case DevicesGranted(vm=vm, node=node, generation=generation, disks=disks, nics=nics):
            return [NoteDevices(vm=vm, node=node, generation=generation, granted=True, disks=disks, nics=nics)]
        case DevicesDenied(vm=vm, node=node, generation=generation, sentence=said):
            return [NoteDevices(vm=vm, node=node, generation=generation, granted=False, sentence=said)]
        case _:
            return ()


def orders(stream: str, state: Any, version: int) -> Order | None:
    match state:
        case Launching():
            message = OrderVm(
                vm=state.id, generation=state.generation, version=version, want=Want.RUNNING, spec=state.spec
            )
        case Running():
            message = OrderVm(
                vm=state.id,
                generation=state.generation,
                version=version,
                want=Want.PAUSED if state.pause_wanted else Want.RUNNING,
                resets=state.resets_wanted,
                spec=state.spec,
            )
        case Stopping():
            message = OrderVm(
                vm=state.id,
                generation=state.generation,
                version=version,
                want=Want.GONE,
                deadline_s=state.deadline_s,
            )
        case _:
            return None
    return Order(state.node, message)
