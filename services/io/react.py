"""A start asks for devices, its end revokes them, a deletion removes them; what the agents are ordered to do with files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.host.service import Order
from libs.common.messages import Command, Recorded
from proto.compute import (
    VmDeleted,
    VmFound,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
)
from proto.growth import VmHardwareSeen
from proto.io import GrantDevices, NoteHardware, RemoveDevices, ReturnDevices, RevokeDevices
from proto.migration import VmIncomingGone, VmMigrationRequested
from proto.node import OrderDisksRemoval, OrderImageImport, OrderImageRemoval
from services.io.images import Deleting, Importing
from services.io.states import Granted, Removing, Revoked


def react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    match event:
        case VmStartRequested(vm=vm, node=node, generation=generation, disks=disks, nics=nics):
            return [GrantDevices(vm=vm, node=node, generation=generation, disks=disks, nics=nics)]
        case VmFound(vm=vm, node=node, generation=generation, disks=disks, nics=nics):
            return [GrantDevices(vm=vm, node=node, generation=generation, disks=disks, nics=nics, running=True)]
        case VmMigrationRequested(vm=vm, to=to, incoming=incoming, disks=disks, nics=nics):
            return [GrantDevices(vm=vm, node=to, generation=incoming, disks=disks, nics=nics)]
        case VmIncomingGone(vm=vm, generation=generation, source=source, source_generation=holder):
            return [ReturnDevices(vm=vm, generation=generation, source=source, source_generation=holder)]
        case VmStartFailed() | VmStopped():
            return [RevokeDevices(vm=event.vm, generation=event.generation)]
        case VmHardwareSeen(vm=vm, generation=generation, hardware=hardware):
            return [NoteHardware(vm=vm, generation=generation, hardware=hardware)]
        case VmDeleted():
            return [RemoveDevices(vm=event.vm, node=event.node)]
        case _:
            return ()


def orders(stream: str, state: Any, version: int) -> Order | None:
    match state:
        case Removing():
            return Order(state.node, OrderDisksRemoval(vm=state.vm, version=version, disks=state.disks))
        case Granted() | Revoked() if state.unwanted and state.node:
            return Order(state.node, OrderDisksRemoval(vm=state.vm, version=version, disks=state.unwanted))
        case Importing(wish=wish):
            message = OrderImageImport(
                image=wish.image,
                version=version,
                pool=wish.pool,
                file=wish.file,
                format=wish.format,
                sha256=wish.sha256,
                boot=wish.boot,
            )
            return Order(wish.node, message)
        case Deleting():
            image = stream.removeprefix("image-")
            return Order(state.node, OrderImageRemoval(image=image, version=version, pool=state.pool))
        case _:
            return None
