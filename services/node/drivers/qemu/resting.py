"""Recovered disks of a VM at rest: what they stand on comes home, by a QEMU without a machine (bare.py). The order of a start ends
that: each file is valid at any instant, and the VM that runs goes on from what is there."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from libs.memory.areas import STORAGE
from proto.machine import Disk
from services.node.drivers import CannotStart, DriverError, Locked
from services.node.drivers.qemu import devices, disks, lease, origins
from services.node.drivers.qemu.bare import Wanted, bare
from services.node.drivers.qemu.devices import LAYERS, Backing, Handed
from services.node.drivers.qemu.keyring import told
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.making import ready
from services.node.drivers.qemu.merges import WAITS
from services.node.drivers.qemu.process import uid_for
from services.node.drivers.qemu.qemu_img import for_copy
from services.node.drivers.qemu.qmp import QmpEvent
from services.node.host import areas
from services.node.pacing import MIB

JOB = "merge"


class Resting:
    """Those of one node."""

    def __init__(self) -> None:
        self._merging: dict[str, asyncio.Task[None]] = {}
        self._starting: dict[str, int] = {}

    @contextmanager
    def way_for(self, vm: str) -> Iterator[None]:
        """The VM is being started, or its disks removed: what is merged of it is given up."""
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
        """May be cut short and done again at any time. Raises Locked where the VM runs (here or elsewhere), DriverError,
        OSError."""
        if vm in self._starting:
            raise DriverError(f"{vm} is being started, so that its data comes home while it runs, or its disks are removed")
        task = self._merging[vm] = asyncio.create_task(_merge(host, vm, wanted))
        try:
            await asyncio.wait({task})
            if task.cancelled():
                raise DriverError(f"{vm} is being started, so that its data comes home while it runs, or its disks are removed")
            task.result()
        finally:
            task.cancel()
            del self._merging[vm]


async def _merge(host: Host, vm: str, wanted: Sequence[Disk]) -> None:
    with ExitStack() as open_files:
        held: list[int] = []
        for name in sorted({disk.pool for disk in wanted}):
            held.append(await asyncio.to_thread(lease.hold, host.pools[name], vm))
            open_files.callback(os.close, held[-1])
        for disk in wanted:
            found, handed = await asyncio.to_thread(_opened, host, vm, disk, open_files)
            if handed:  # else the header says that it stands on none any more
                await _stream(host, vm, disk, found, handed, tuple(held))


def _opened(
    host: Host, vm: str, disk: Disk, open_files: ExitStack
) -> tuple[tuple[Backing, ...], tuple[Handed, ...]]:
    if any(layer.origin is None or not layer.leaving for layer in disk.layers):
        raise CannotStart(f"{disk.name} of {vm} has layers of its own above those of a backup: start it")
    found = ready(host, disk, None, uid_for(vm))
    if disks.is_open(file := host.pools[disk.pool] / LAYERS / disk.file):
        raise Locked(f"{file} is open: {vm} runs, here or on another node")
    return found, origins.hand(host.pools, {disk.name: found}, (disk,), open_files)


async def _stream(
    host: Host, vm: str, disk: Disk, found: Sequence[Backing], handed: Sequence[Handed], held: tuple[int, ...]
) -> None:
    """Raises DriverError."""
    pools = {disk.pool: host.pools[disk.pool]}
    async with bare(Wanted(host.qemu, uid_for(vm), pools, held, lambda pid: areas.join(host.groups, STORAGE, pid))) as qemu:
        for one in handed:
            await qemu.give_set(one.fd, one.file, one.into)
        keys = [host.ring.key(id) for id in sorted(origins.keys({disk.name: found}))]
        async with told(qemu, keys):
            nodes = devices.disk_nodes(disk, qemu.pools[disk.pool], disk.pool in host.direct, found)
            for node in nodes:
                await qemu.do("blockdev-add", node)
        copied, end = (asyncio.get_running_loop().create_future() for _ in range(2))
        qemu.hears.append(lambda event: _hear(copied, end, event))
        qemu.at_end(lambda: _told(end, "QEMU ended"))
        words = {"job-id": JOB, "device": devices.disk_id(disk.slot), "on-error": "report", "speed": disk.home_mibps * MIB}
        await qemu.do("block-stream", {**words, **WAITS})
        try:
            wanted_s = 2 * disk.size_mib / (disk.home_mibps or math.inf)
            async with asyncio.timeout(max(for_copy(disk.size_mib << 20).wall_s, wanted_s)):
                await asyncio.wait({copied, end}, return_when=asyncio.FIRST_COMPLETED)
                if not end.done():
                    await qemu.do("blockdev-reopen", {"options": [nodes[-1]]})  # by which QEMU writes its tables out, durably
                    await qemu.do("job-finalize", {"id": JOB})
                said = await end
        except TimeoutError:
            said = "it took too long"
        if said:
            raise DriverError(f"what {disk.name} of {vm} stands on was not copied: {said}")
        await qemu.quit()


def _hear(copied: asyncio.Future[str], end: asyncio.Future[str], event: QmpEvent) -> None:
    if event.name == "BLOCK_JOB_PENDING":
        _told(copied, "")
    elif event.name == "BLOCK_JOB_COMPLETED":
        _told(end, str(event.data.get("error") or ""))
    elif event.name == "BLOCK_JOB_CANCELLED":
        _told(end, "it was cancelled")


def _told(end: asyncio.Future[str], said: str) -> None:
    if not end.done():
        end.set_result(said)
