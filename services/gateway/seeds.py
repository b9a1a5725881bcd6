"""What guests' cloud-init begins with: kept in a pool beside files to import, known to messages by name and digest only."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from proto.compute import DefineVm
from proto.machine import DiskBus, DiskFormat, DiskWish, Seed
from services.gateway.gateway import Gateway

if TYPE_CHECKING:
    from services.gateway.http.bodies import SeedBody


async def kept(gateway: Gateway, command: DefineVm, wish: SeedBody) -> DefineVm:
    """The command with a drive for it; the file is there before any command names it. Raises Problem."""
    content = msgspec.json.encode(wish.content(command.vm))
    pool = next((disk.pool for disk in command.disks if not disk.bus.is_cd), "default")
    file = await asyncio.to_thread(gateway.uploads.keep_seed, pool, content)
    seed = Seed(file=file, sha256=hashlib.sha256(content).hexdigest())
    drive = DiskWish(bus=DiskBus.CDROM, format=DiskFormat.RAW, pool=pool, seed=seed)
    return replace(command, disks=(*command.disks, drive))


def drop(gateway: Gateway, command: DefineVm) -> None:
    """The command was refused."""
    for disk in command.disks:
        if disk.seed is not None:
            gateway.uploads.drop(disk.pool, disk.seed.file)


def wanted(gateway: Gateway) -> set[str]:
    """The files that VMs begin with."""
    vms = gateway.model.vms.all.values()
    has = {disk.seed.file for vm in vms for disk in (*vm.disks, *vm.disks_there) if disk.seed is not None}
    return has | {wish.seed.file for vm in vms for wish in vm.disk_wishes if wish.seed is not None}
