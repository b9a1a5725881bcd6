"""The driver's verbs for files of pools: disks of VMs at rest, their layers, and images made of them."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import msgspec

from proto.images import DiskSource, ImageInfo
from proto.machine import DirectBoot, Disk
from services.node.drivers import BadImage, DriverError, Locked
from services.node.drivers.qemu import disks as pool_files
from services.node.drivers.qemu import merging, origins, templates
from services.node.drivers.qemu.fleet import Fleet
from services.node.drivers.qemu.qemu_img import QemuImg
from services.node.drivers.qemu.resting import Resting
from services.node.drivers.qemu.stores import Store


class Files:
    """Of one node. What is raised is said in the Driver contract."""

    def __init__(self, fleet: Fleet, tool: QemuImg) -> None:
        self.resting = Resting()
        self._fleet, self._tool = fleet, tool

    def pool(self, name: str) -> Path:
        """Raises DriverError."""
        pools = self._fleet.host.pools
        if name not in pools:
            raise DriverError(f"this node has no pool {name!r}; it has {', '.join(sorted(pools))}")
        return pools[name]

    def for_images(self, pool: str) -> Path:
        """Raises BadImage, DriverError."""
        remote = self._fleet.host.remotes.get(pool)
        if remote is not None:
            raise BadImage(f"pool {pool} is {remote.kind}: images are imported into pools that are folders")
        return self.pool(pool)

    async def remove_disks(self, vm: str, disks: tuple[Disk, ...]) -> None:
        """What comes home of it at rest, slowly it may be, is given up: it is not waited for to remove what nobody wants."""
        with self.resting.way_for(vm):
            await self._remove_disks(vm, disks)

    async def _remove_disks(self, vm: str, disks: tuple[Disk, ...]) -> None:
        async with self._fleet.lock(vm):
            for pool in {d.pool for d in disks}:
                own = tuple(d for d in disks if d.pool == pool)
                folder = self.pool(pool)
                if pool in self._fleet.host.remotes:
                    far = tuple(d for d in own if not d.bus.is_cd)
                    await asyncio.to_thread(_remove, self._fleet.host.store(pool), vm, far)
                    own = tuple(msgspec.structs.replace(d, file="") if d in far else d for d in own)
                await asyncio.to_thread(pool_files.remove, folder, vm, own)

    async def merge_layers(self, vm: str, disks: tuple[Disk, ...]) -> None:
        async with self._fleet.lock(vm):
            try:
                recovered = tuple(disk for disk in disks if origins.any_of((disk,)))
                if recovered:
                    await self.resting.merge(self._fleet.host, vm, recovered)
                own = tuple(disk for disk in disks if disk not in recovered)
                await asyncio.to_thread(merging.merge, self._fleet.host, vm, own)
            except OSError as error:
                raise DriverError(f"layers of {vm} cannot be merged: {error}") from error

    async def make_image(self, pool: str, image: str, source: DiskSource, boot: DirectBoot | None) -> ImageInfo:
        making = partial(templates.make, self.for_images(pool), image, source, boot, self._tool)
        if not source.resting:
            return await asyncio.to_thread(making)
        async with self._fleet.lock(source.vm):
            return await asyncio.to_thread(making)


def _remove(store: Store, vm: str, disks: tuple[Disk, ...]) -> None:
    """Raises Locked when one is open, and then removes none."""
    for disk in disks:
        if store.is_open(disk):
            raise Locked(f"{store.place(disk)} is open: stop {vm} first, on whichever node it runs")
    for disk in disks:
        store.remove(disk)
