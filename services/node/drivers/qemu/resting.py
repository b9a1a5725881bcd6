"""Recovered disks of a VM at rest: what they stand on comes home, by a QEMU without a machine (still.py). The order of a start ends
that: each file is valid at any instant, and the VM that runs goes on from what is there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from proto.machine import Disk
from services.node.drivers import CannotStart, DriverError, Locked
from services.node.drivers.qemu import devices, disks, launch, lease, origins
from services.node.drivers.qemu.devices import LAYERS, Handed, Words
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.making import ready
from services.node.drivers.qemu.process import uid_for
from services.node.drivers.qemu.qemu_img import for_copy
from services.node.drivers.qemu.still import still


class Resting:
    """Those of one node."""

    def __init__(self) -> None:
        self._merging: dict[str, asyncio.Task[None]] = {}
        self._starting: dict[str, int] = {}

    @contextmanager
    def way_for(self, vm: str) -> Iterator[None]:
        """The VM is being started: what is merged of it is given up."""
        self._starting[vm] = self._starting.get(vm, 0) + 1
        if (task := self._merging.get(vm)) is not None:
            task.cancel()
        try:
            yield
        finally:
            self._starting[vm] -= 1
            if not self._starting[vm]:
                del self._starting[vm]

    async def merge(self, host: Host, vm: str, wanted: Sequence[Disk]) -> None:
        """May be cut short and done again at any time. Raises Locked where the VM runs (here or elsewhere), DriverError, OSError."""
        if vm in self._starting:
            raise DriverError(f"{vm} is being started: its data comes home while it runs")
        task = self._merging[vm] = asyncio.create_task(_merge(host, vm, wanted))
        try:
            await asyncio.wait({task})
            if task.cancelled():
                raise DriverError(f"{vm} is being started: its data comes home while it runs")
            task.result()
        finally:
            task.cancel()
            del self._merging[vm]


async def _merge(host: Host, vm: str, wanted: Sequence[Disk]) -> None:
    with ExitStack() as open_files:
        inherit: list[int] = []
        for name in sorted({disk.pool for disk in wanted}):
            fd = await asyncio.to_thread(lease.hold, host.pools[name], vm)
            open_files.callback(os.close, fd)
            inherit.append(fd)
        for disk in wanted:
            nodes, handed = await asyncio.to_thread(_opened, host, vm, disk, inherit, open_files)
            if not handed:
                continue  # the header says that it stands on none any more
            within_s = for_copy(disk.size_mib << 20).wall_s
            async with still(host, vm, nodes, handed, inherit) as qemu:
                node = devices.disk_id(disk.slot)
                await qemu.done("block-stream", "merge", {"device": node, "on-error": "report"}, within_s)


def _opened(
    host: Host, vm: str, disk: Disk, inherit: list[int], open_files: ExitStack
) -> tuple[list[Words], tuple[Handed, ...]]:
    uid = uid_for(vm)
    if any(layer.origin is None or not layer.leaving for layer in disk.layers):
        raise CannotStart(f"{disk.name} of {vm} has layers of its own above those of a backup: start it")
    found = ready(host, disk, None, uid)
    pool = host.pools[disk.pool]
    if disks.is_open(file := pool / LAYERS / disk.file):
        raise Locked(f"{file} is open: {vm} runs, here or on another node")
    folder = launch.named(pool, uid, inherit, open_files)
    handed = origins.hand(host.pools, {disk.name: found}, (disk,), open_files)
    return devices.disk_nodes(disk, folder, disk.pool in host.direct, found), handed
