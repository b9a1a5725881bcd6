"""A start asks for devices, its end revokes them, a deletion removes them; what the agents are ordered to do with files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.host.service import Order
from libs.common.messages import Command, NodeId, Recorded
from proto.compute import (
    NodeRemoved,
    VmDeleted,
    VmFound,
    VmRecoveryPrepared,
    VmRecoveryRefused,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
)
from proto.growth import VmHardwareSeen
from proto.hardware import leaving, standing
from proto.io import (
    DevicesRemoved,
    DisksHome,
    DisksNotRecovered,
    DisksRecovered,
    DisksRemovalRequested,
    GrantDevices,
    NoteHardware,
    RemoveDevices,
    ReturnDevices,
    RevokeDevices,
    SettleDisks,
)
from proto.machine import Disk
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationRequested
from proto.node import OrderDisksMerge, OrderDisksRemoval, OrderImageImport, OrderImageRemoval
from services.io import layers, recoveries, recovering
from services.io.backups import watch_views
from services.io.backups.drill_views import react as drills_react
from services.io.backups.orders import orders as backups_orders
from services.io.backups.reacting import react as backups_react
from services.io.backups.reacting import too_late as backups_too_late
from services.io.backups.states import Backups
from services.io.backups.turns import look as turns_look
from services.io.images import Deleting, Importing
from services.io.states import Devices, Granted, NoDevices, Removing, Revoked
from services.io.waves.reacting import look as waves_look
from services.io.waves.reacting import react as waves_react


def react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    drills = drills_react(event, recorded.at_us, views.drills)
    backups = [*backups_react(event, views), *backups_too_late(event, views)]
    return [*_react(event, views), *backups, *drills, *waves_react(event, recorded, views)]


def look(now_us: int, views: Any) -> Iterable[Command]:
    """What schedules and waves want, and what is to be written of how recoveries go."""
    return [*turns_look(now_us, views), *waves_look(now_us, views), *watch_views.look(now_us, views)]


def _react(event: Any, views: Any) -> Sequence[Command]:
    match event:
        case VmStartRequested(vm=vm, node=node, generation=generation, disks=disks, nics=nics):
            return [GrantDevices(vm=vm, node=node, generation=generation, disks=disks, nics=nics)]
        case VmFound(vm=vm, node=node, generation=generation, disks=disks, nics=nics):
            found = GrantDevices(vm=vm, node=node, generation=generation, disks=disks, nics=nics, running=True)
            return [replace(found, has_disks=event.has_disks, has_nics=event.has_nics)]
        case VmMigrationRequested(vm=vm, to=to, incoming=incoming, disks=disks, nics=nics):
            along = tuple(sorted(event.way.copied))
            return [GrantDevices(vm=vm, node=to, generation=incoming, disks=disks, nics=nics, copied=along)]
        case VmStarted() | VmMigrated():
            return [SettleDisks(vm=event.vm, generation=event.generation)]
        case VmIncomingGone(vm=vm, generation=generation, source=source, source_generation=holder):
            return [ReturnDevices(vm=vm, generation=generation, source=source, source_generation=holder)]
        case VmStartFailed() | VmStopped():
            return [RevokeDevices(vm=event.vm, generation=event.generation)]
        case VmHardwareSeen(vm=vm, generation=generation, hardware=hardware):
            return [NoteHardware(vm=vm, generation=generation, hardware=hardware)]
        case VmDeleted():
            return [RemoveDevices(vm=event.vm, node=event.node)]
        case NodeRemoved(node=node):
            return [RemoveDevices(vm=vm, gone=node) for vm in sorted(views.disks) if vm not in views.vms]
        case DisksRemovalRequested(vm=vm, node=node) if node not in views.nodes:
            return [RemoveDevices(vm=vm, gone=node)]
        case (
            VmRecoveryPrepared() | VmRecoveryRefused()
            | DisksRecovered() | DisksNotRecovered() | DisksHome() | DevicesRemoved()
        ):  # fmt: skip
            return recoveries.react(event, views)
        case _:
            return ()


def orders(stream: str, state: Any, version: int) -> Order | Sequence[Order] | None:
    match state:
        case NoDevices() | Granted() | Revoked() | Removing():
            return [*_removals(stream, state, version), *_merges(stream, state, version)]
        case Importing(wish=wish):
            message = OrderImageImport(
                image=wish.image,
                version=version,
                pool=wish.pool,
                file=wish.file,
                format=wish.format,
                sha256=wish.sha256,
                boot=wish.boot,
                disk=wish.disk,
                source=wish.source,
            )
            return Order(wish.node, message)
        case Deleting():
            image = stream.removeprefix("image-")
            return Order(state.node, OrderImageRemoval(image=image, version=version, pool=state.pool))
        case Backups():
            return backups_orders(stream.removeprefix("backups-"), state, version)
        case _:
            return None


def _merges(stream: str, state: Devices, version: int) -> Sequence[Order]:
    """Of a VM that runs its agent does it as a part of fitting it."""
    if not isinstance(state, Revoked) or not state.node:
        return ()
    home = recovering.mergeable(state.disks)
    disks = tuple(disk for disk in state.disks if leaving(disk) and (home or not standing(disk)))
    vm = stream.removeprefix("devices-")
    return [Order(state.node, OrderDisksMerge(vm=vm, version=version, disks=disks))] if disks else []


def _removals(stream: str, state: Devices, version: int) -> Sequence[Order]:
    """One for each node. What lies in a backup is nobody's to remove here, whatever stood on it."""
    files: dict[NodeId, tuple[Disk, ...]] = {one.node: one.disks for one in state.unwanted if one.node}
    if isinstance(state, Removing):
        files[state.node] = (*state.disks, *files.get(state.node, ()))
    vm = stream.removeprefix("devices-")
    return [
        Order(node, OrderDisksRemoval(vm=vm, version=version, disks=tuple(map(layers.alone, disks))))
        for node, disks in sorted(files.items())
    ]
