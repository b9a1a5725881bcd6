"""The file of a disk: made where it is missing and no guest has run with it, never in place of one that was lost. Blocking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.machine import Disk
from services.node.drivers import CannotStart
from services.node.drivers.qemu import devices, disks, layers, origins
from services.node.drivers.qemu.devices import Backing

if TYPE_CHECKING:
    from services.node.drivers.qemu.launch import Host


NO_FOLDER = "snapshots are files beneath a disk, which only a pool that is a folder has"


def _lost(host: Host, disk: Disk, file: str) -> str:
    """Why a disk of which a guest knows is not there, as far as that can be said."""
    pool, here = host.pools[disk.pool], disks.id_of(host.pools[disk.pool])
    if disk.pool_id and disk.pool_id != here:
        return f"{disk.file} lies in the pool {disk.pool} {disk.pool_id}; {pool} on {host.node} is another ({here}) of that name"
    return f"{file} is not there (any more), and nothing is made in its place; bring the file back, or recover the VM from a backup"


def make(host: Host, disk: Disk, base: Backing | None, uid: int | None) -> None:
    """The disk, where it is missing and no guest has run with it, ready for its VM's user. Raises DriverError, OSError."""
    store = host.store(disk.pool)
    if not store.exists(disk):
        if disk.made:
            raise CannotStart(_lost(host, disk, store.place(disk)))
        store.make(disk, base)
    store.ready(disk, uid)


def ready(host: Host, disk: Disk, image: Backing | None, uid: int | None) -> tuple[Backing, ...]:
    """The disk's file, made on its first layer where it is missing and no guest has run with it; all beneath is read-only.
    Raises DriverError, OSError."""
    pool = host.pools[disk.pool]
    if disk.pool in host.remotes:
        raise CannotStart(f"pool {disk.pool} is {host.remotes[disk.pool].kind}: {NO_FOLDER}")
    if origins.any_of((disk,)):
        origins.check(host.pools, disk)
        if not (pool / "disks" / disk.file).exists():  # else its header says whether it needs one still
            for key in {layer.origin.key for layer in disk.layers if layer.origin is not None and layer.origin.key}:
                host.ring.key(key)
    below = layers.ordered(disk, image)[0]
    if not (pool / "disks" / disk.file).exists() and not (path := layers.path_of(host.pools, disk, below)).is_file():
        if below.origin is not None:
            raise layers.damaged(below.origin, f"{path.name} is not there (any more)")
        raise CannotStart(f"{path} is not there (any more), and {disk.name} is to stand on it; bring it back")
    make(host, disk, below, uid)
    found = layers.beneath(host.pools, disk, image, host.remotes)
    for base in found:
        if base.file.startswith(devices.LAYERS):
            layers.seal(pool / base.file, uid)
    return found
