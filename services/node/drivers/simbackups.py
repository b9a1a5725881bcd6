"""A part of SimPool and SimHost: backups. What is on a simulated disk is a word, and so is what is in a backup of it: there at the
instant, whatever is written afterwards. What a disk knows of what was written since is the name of the backup that it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proto.backups import BackupDone, BackupKind, Definition, SavedDisk, Usual
from proto.hardware import Consistency
from proto.machine import Disk, DiskFormat, Freeze
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.node.drivers import DriverError, NotBackedUp, Verified

if TYPE_CHECKING:
    from services.node.drivers.simhost import SimHost
    from services.node.drivers.simpool import SimPool
    from services.node.drivers.simvm import SimVm

FROZEN_MS = 3
CHANGED_BYTES = 1 << 20
"""what an incremental one takes"""
NORMAL = Usual(write_us=400, read_us=200)
"""how fast simulated disks are"""


@dataclass(frozen=True, slots=True)
class SimBackup:
    """on: what is on each disk, by its name."""

    done: BackupDone
    on: dict[str, str]
    definition: Definition


def key_of(pool: str, vm: str, backup: str) -> str:
    return f"{pool}/{vm}/{backup}"


def begin(host: SimHost, order: OrderBackup, now_us: int) -> SimBackup:
    """As all is at this instant; nothing of it is in the pool. Raises NotBackedUp; DriverError for what passes."""
    pool, vm = host.pool, _source(host, order)
    if order.pool in pool.gone:
        raise DriverError(f"pool {order.pool!r} does not answer")
    if not pool.free(order.pool):
        raise NotBackedUp(f"pool {order.pool} is full: 0 MiB of {pool.size_mib} MiB are free")
    if order.key and order.compress:
        raise NotBackedUp("what is compressed cannot be encrypted")
    if order.key and order.key not in host.keys:
        raise NotBackedUp(no_key(order.key, host.node))
    stored = [disk for disk in order.disks if not disk.bus.is_cd]
    if lost := [disk for disk in stored if _disk(disk) not in pool.disks]:
        raise NotBackedUp(f"the disk {lost[0].name} of {order.vm} is not there")
    frozen = vm is not None and order.freeze is not Freeze.NO and host.booted(order.vm, now_us)
    if vm is not None and order.freeze is Freeze.REQUIRE and not frozen:
        raise NotBackedUp(f"the file systems of {order.vm} do not stand still: its guest's agent did not answer")
    why = _why_full(pool, order, stored) if order.parent else order.why_full
    parent = "" if why else order.parent
    kind = BackupKind.INCREMENTAL if parent else BackupKind.FULL
    on = {disk.name: pool.disks[_disk(disk)] for disk in stored}
    saved = tuple(_saved(order.vm, order.backup, parent, disk.name, disk.size_mib, on[disk.name]) for disk in stored)
    done = BackupDone(
        kind=kind, disks=saved, at_us=now_us, parent=parent, sentence=why, frozen_ms=FROZEN_MS if frozen else 0,
        consistency=Consistency.STOPPED if vm is None else Consistency.FILESYSTEM if frozen else Consistency.CRASH,
        took_ms=FROZEN_MS + 1, copied_mib=sum(disk.bytes for disk in saved) >> 20,
        normal=NORMAL if vm is not None else Usual(), key=order.key,
    )  # fmt: skip
    return SimBackup(done, on, order.definition)


def _source(host: SimHost, order: OrderBackup) -> SimVm | None:
    """None: it is at rest, as it is to be. Raises NotBackedUp."""
    vm = host.vms.get(order.vm)
    if not order.generation:
        if held := host.pool.holders.get(f"vm {order.vm}"):
            raise NotBackedUp(f"{order.vm} runs on {held[0].node}: it is backed up as one that runs")
        return None
    if vm is None or vm.starting or vm.spec.generation != order.generation:
        raise NotBackedUp(f"generation {order.generation} of {order.vm} does not run on {host.node} any more")
    if vm.sent_to or vm.status in ("incoming", "sent"):
        raise NotBackedUp(f"the guest of {order.vm} is on its way to another node")
    return vm


def _why_full(pool: SimPool, order: OrderBackup, stored: Iterable[Disk]) -> str:
    parent = pool.backups.get(key_of(order.pool, order.vm, order.parent))
    if parent is None:
        return f"it is full: {order.parent}, on which it was to stand, is not in pool {order.pool}"
    if parent.done.key != order.key:
        by = f"by the key {parent.done.key}" if parent.done.key else "by none"
        return f"it is full: {order.parent} is encrypted {by}, not {order.key or 'by none'}"
    sizes = {disk.disk: disk.size_mib for disk in parent.done.disks}
    for disk in stored:
        if sizes.get(disk.name) != disk.size_mib:
            return f"it is full: the disk {disk.name} is not in {order.parent}, or has another size there"
        if pool.since.get((_disk(disk), order.pool)) != order.parent:
            return f"it is full: its own file of the disk {disk.name} does not know what was written since {order.parent}"
    return ""


def finish(host: SimHost, order: OrderBackup, made: SimBackup) -> BackupDone:
    """It is in the pool, whole."""
    pool = host.pool
    pool.backups[key_of(order.pool, order.vm, order.backup)] = made
    for disk in order.disks:
        if not disk.bus.is_cd and (disk.format is DiskFormat.QCOW2 or order.generation):
            pool.since[_disk(disk), order.pool] = order.backup
    return made.done


def there(host: SimHost, order: OrderBackup) -> BackupDone | None:
    found = host.pool.backups.get(key_of(order.pool, order.vm, order.backup))
    return found.done if found is not None else None


def take(host: SimHost, order: OrderBackup, now_us: int, at_us: int) -> BackupDone:
    """At once. at_us: the time of day there. Raises NotBackedUp; DriverError for what passes."""
    return there(host, order) or finish(host, order, dated(begin(host, order, now_us), at_us))


def dated(made: SimBackup, at_us: int) -> SimBackup:
    return SimBackup(replace(made.done, at_us=at_us), made.on, made.definition)


def forget(pool: SimPool, disks: Iterable[Disk], *, crashed: bool) -> None:
    """A process has ended: what it knew of what was written is lost, but for what it kept in a disk's own file as it ended well."""
    for disk in disks:
        if crashed or disk.format is not DiskFormat.QCOW2:
            for key in [key for key in pool.since if key[0] == _disk(disk)]:
                del pool.since[key]


def no_key(key: str, node: str) -> str:
    return f"it is encrypted by the key {key}, which {node} does not have"


def remove(host: SimHost, order: OrderBackupRemoval) -> dict[str, tuple[SavedDisk, ...]]:
    """Raises NotBackedUp, and then nothing is changed; DriverError for what passes."""
    pool = host.pool
    if order.heirs and order.key and order.key not in host.keys:
        raise NotBackedUp(no_key(order.key, host.node))
    if order.pool in pool.gone:
        raise DriverError(f"pool {order.pool!r} does not answer")
    heirs = {}
    for name in sorted(order.heirs):
        heir = pool.backups.get(key_of(order.pool, order.vm, name))
        if heir is None:
            raise NotBackedUp(f"{name}, which stands on it, is not there: nothing was removed")
        if heir.done.parent not in (order.backup, order.below):
            raise NotBackedUp(f"{name} stands on {heir.done.parent or 'nothing'}, which it should not: nothing was removed")
        bad = {key_of(order.pool, order.vm, one) for one in (name, order.backup)} & pool.rotten
        if bad and heir.done.parent != order.below:
            raise NotBackedUp(f"{min(bad)} is damaged, and was not merged; remove those that stand on it first")
        heirs[name] = _freed(order, name, heir)
    for name, freed in heirs.items():
        pool.backups[key_of(order.pool, order.vm, name)] = freed
    key = key_of(order.pool, order.vm, order.backup)
    pool.backups.pop(key, None)
    pool.rotten.discard(key)
    return {name: freed.done.disks for name, freed in heirs.items()}


def _freed(order: OrderBackupRemoval, name: str, heir: SimBackup) -> SimBackup:
    saved = tuple(_saved(order.vm, name, order.below, d.disk, d.size_mib, heir.on[d.disk]) for d in heir.done.disks)
    kind = BackupKind.INCREMENTAL if order.below else BackupKind.FULL
    return SimBackup(replace(heir.done, disks=saved, parent=order.below, kind=kind), heir.on, heir.definition)


def verify(pool: SimPool, order: OrderBackupVerify) -> Verified:
    """Raises DriverError for what passes."""
    if order.pool in pool.gone:
        raise DriverError(f"pool {order.pool!r} does not answer")
    damaged, read = {}, 0
    for name, saved in sorted(order.backups.items()):
        found = pool.backups.get(key_of(order.pool, order.vm, name))
        if found is None:
            damaged[name] = f"{saved[0].file if saved else name} is not there (any more)"
            continue
        read += sum(disk.bytes for disk in saved)
        if key_of(order.pool, order.vm, name) in pool.rotten or found.done.disks != saved:
            damaged[name] = f"{saved[0].file if saved else name} does not hold what was written"
    return Verified(damaged, read >> 20, 1)


def _saved(vm: str, backup: str, parent: str, disk: str, size_mib: int, on: str) -> SavedDisk:
    digest = hashlib.sha256(f"{parent} {on}".encode()).hexdigest()
    size = CHANGED_BYTES if parent else size_mib << 20
    return SavedDisk(disk=disk, file=f"{vm}-{disk}.{backup}.qcow2", size_mib=size_mib, bytes=size, sha256=digest)


def _disk(disk: Disk) -> str:
    return f"disk {disk.pool}/{disk.file}"
