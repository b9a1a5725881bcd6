"""The disks of a VM at rest, for a QEMU without a machine: under the lock of the VM, so that it is not started anywhere meanwhile.
Blocking."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from proto.machine import Disk, DiskFormat
from services.node.drivers import CannotStart, Locked, NotBackedUp
from services.node.drivers.qemu import devices, disks, lease, making
from services.node.drivers.qemu.devices import Backing
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.process import uid_for

type Chains = dict[str, tuple[Backing, ...]]
"""what each disk's file stands on, by the disk's name"""


def held(host: Host, vm: str, stored: Sequence[Disk]) -> tuple[int, ...]:
    """Open files with the lock of the VM, in each pool. Raises NotBackedUp."""
    with ExitStack() as opened:
        fds = []
        for name in sorted({disk.pool for disk in stored}):
            if name not in host.pools:
                raise NotBackedUp(f"{host.node} has no pool {name!r}, in which {vm} has a disk")
            try:
                fds.append(lease.hold(host.pools[name], vm))
            except Locked as error:
                raise NotBackedUp(f"{vm} does not rest: {error}") from error
            opened.callback(os.close, fds[-1])
        opened.pop_all()
    return tuple(fds)


def beneath(host: Host, vm: str, stored: Sequence[Disk]) -> Chains:
    """Raises NotBackedUp, DriverError, OSError."""
    found: Chains = {}
    for disk in stored:
        if any(layer.origin is not None for layer in disk.layers):
            raise NotBackedUp(f"the disk {disk.name} of {vm} stands on a backup itself: start {vm}, and what is on it comes home")
        if not disk.layers and not host.store(disk.pool).exists(disk):
            raise NotBackedUp(f"the disk {disk.name} of {vm} is not there: {vm} was never started with it, or its file is lost")
        try:
            found[disk.name] = _beneath(host, disk, uid_for(vm))
        except CannotStart as error:
            raise NotBackedUp(f"the disk {disk.name} of {vm} cannot be read: {error}") from error
    return found


def _beneath(host: Host, disk: Disk, uid: int | None) -> tuple[Backing, ...]:
    image = disks.base_of(host.pools[disk.pool], disk.image) if disk.image and disk.pool not in host.remotes else None
    if disk.layers:
        return making.ready(host, disk, image, uid)
    making.make(host, disk, image, uid)
    return (image,) if image is not None and disk.format is DiskFormat.QCOW2 else ()


def nodes(host: Host, stored: Sequence[Disk], pools: Mapping[str, str], chains: Chains) -> list[devices.Words]:
    """pools: as the process names them."""
    found: list[devices.Words] = []
    for disk in stored:
        direct, remote = disk.pool in host.direct, host.remotes.get(disk.pool)
        found += devices.disk_nodes(disk, pools[disk.pool], direct, chains[disk.name], remote)
    return found
