"""A part of SimPool and SimHost: disks that stand on backups, and what comes home of them. That takes SimParams.home_us of a
process that runs; one that ends before leaves what was copied to the next. What a guest touches first is known from its first start
on a backup on (pool.touched)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from proto.hardware import Misfit
from proto.machine import Disk, Layer, MachineSpec
from proto.node import CopyNow
from services.node.drivers import CannotStart, MachineChanged
from services.node.drivers.simbackups import NORMAL, key_of, no_key

if TYPE_CHECKING:
    from services.node.drivers.simhost import SimHost
    from services.node.drivers.simpool import SimPool
    from services.node.drivers.simvm import SimVm

BACKUP = "backup "
"""how the key of a file in a backup begins: nobody locks it, and no disk's removal touches it"""
FIRST_MIB = 16
"""what a guest touches first, of each disk"""
SLOWER = 1.25
"""as much longer the writes of a guest take while its data comes home"""


def recovered(disks: Iterable[Disk]) -> bool:
    """Whether one is ordered to stand on a backup."""
    return any(layer.origin is not None for disk in disks for layer in disk.layers)


def key(disk: Disk, layer: Layer) -> str:
    """Of a file beneath a disk."""
    if (origin := layer.origin) is None:
        return f"disk {disk.pool}/{layer.file}"
    return f"{BACKUP}{key_of(origin.pool, origin.vm, origin.backup)}/{layer.file}"


def word(pool: SimPool, disk: Disk, layer: Layer) -> str:
    """What is on the file, which is there. Raises CannotStart."""
    origin = layer.origin
    if origin is None:
        if (own := pool.disks.get(key(disk, layer))) is None:
            raise CannotStart(f"{layer.file} is not there (any more), and {disk.name} is to stand on it")
        return own
    if origin.pool in pool.gone:
        raise CannotStart(f"pool {origin.pool!r} does not answer")
    backup = pool.backups.get(key_of(origin.pool, origin.vm, origin.backup))
    saved = next((one for one in backup.done.disks if one.file == layer.file), None) if backup is not None else None
    if backup is None or saved is None:
        said = f"the backup {origin.backup} of {origin.vm} in pool {origin.pool} is damaged"
        raise CannotStart(f"{said}: {layer.file} is not there (any more)")
    return backup.on[saved.disk]


def check(pool: SimPool, disk: Disk) -> None:
    """All that the disk still stands on in backups is there. Raises CannotStart."""
    stands = set(pool.keys(disk))
    for layer in disk.layers:
        if layer.origin is not None and key(disk, layer) in stands:
            word(pool, disk, layer)


def check_keys(host: SimHost, disks: Iterable[Disk]) -> None:
    """Those that are new and are to stand on encrypted backups, and those that do still. Raises CannotStart."""
    for disk in disks:
        needs = {key(disk, layer): layer.origin.key for layer in disk.layers if layer.origin is not None and layer.origin.key}
        own = host.pool.keys(disk) if needs else ()
        stands = needs if needs and own[0] not in host.pool.disks else set(own)
        if lacking := {needs[each] for each in stands if each in needs} - host.keys:
            raise CannotStart(no_key(min(lacking), host.node))


def fit(host: SimHost, vm: SimVm, wish: MachineSpec, now_us: int, found: list[Misfit]) -> None:
    """What comes home does so for a while longer, or is home."""
    for disk in wish.disks:
        own = host.pool.keys(disk)
        if not recovered((disk,)) or not any(each.startswith(BACKUP) for each in own):
            continue
        since = vm.coming.get(disk.name)
        vm.coming[disk.name] = now_us
        came = host.pool.came.get(own[0], 0) + (now_us - since if since is not None else 0)
        host.pool.came[own[0]] = came
        if came >= host.params.home_us:
            del vm.coming[disk.name]
            host.pool.merge(disk)
            continue
        if since is None:
            touch(host.pool, vm, disk)
            host.plan(now_us + host.params.home_us - came, "home", vm.spec.vm, pid=vm.pid)
        found.append(Misfit(what="merge", slot=disk.slot, sentence="a layer is being merged", pending=True))


def touch(pool: SimPool, vm: SimVm, disk: Disk) -> None:
    """The copy begins: by what was touched before, and what is touched now is known the next time."""
    origin = next(layer.origin for layer in disk.layers if layer.origin is not None)
    key = (origin.pool, origin.vm, disk.name)
    if key in pool.touched and not disk.home_mibps:
        vm.first.add(disk.name)
    pool.touched.add(key)


def came(vm: SimVm) -> MachineChanged:
    """What was pending is done, as far as its process knows."""
    return MachineChanged(vm.spec.vm, vm.spec.generation, vm.status, stirred=True)


def copies(host: SimHost, now_us: int) -> tuple[CopyNow, ...]:
    out = []
    for name, vm in sorted(host.vms.items()):
        for disk in (disk for disk in vm.spec.disks if disk.name in vm.coming):
            us = host.pool.came.get(host.pool.keys(disk)[0], 0) + now_us - vm.coming[disk.name]
            done = min(disk.size_mib, disk.size_mib * us // max(1, host.params.home_us))
            out.append(CopyNow(
                name, "home", disk.name, done, disk.size_mib, write_us=round(NORMAL.write_us * SLOWER), normal_us=NORMAL.write_us,
                first_mib=min(FIRST_MIB, disk.size_mib) if disk.name in vm.first else 0,
            ))  # fmt: skip
    return tuple(out)
