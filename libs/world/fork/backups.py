"""The backups that pools hold, as the log has them, and what is known of them by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from libs.common.messages import Recorded
from libs.world.backup_checks import BackupChecks
from libs.world.decoding import registries
from proto.backups import BackupDone
from proto.machine import Disk, DiskFormat
from services.io.app import SERVICE as IO
from services.io.backups.states import Backup, Backups
from services.io.states import Made
from services.node.drivers.simbackups import SimBackup, key_of
from services.node.drivers.simpool import SimPool

OF = "backups-"


def stored(pool: SimPool, states: Mapping[str, Any]) -> None:
    """All that are whole, damaged ones as such. What a VM's disks know of what was written since its newest backup no log says:
    they are taken to know it, so that the next is as small as it may be."""
    for stream, state in states.items():
        if stream.startswith(OF) and isinstance(state, Backups):
            vm = stream.removeprefix(OF)
            for one in state.backups:
                _put(pool, vm, one)
            made = states.get(f"devices-{vm}")
            if state.backups and isinstance(made, Made):
                _known(pool, state.backups[-1], made.disks)


def _put(pool: SimPool, vm: str, one: Backup) -> None:
    key = key_of(one.pool, vm, one.id)
    done = BackupDone(
        kind=one.kind, disks=one.disks, at_us=one.taken_us, parent=one.parent, consistency=one.consistency, normal=one.normal
    )
    pool.backups[key] = SimBackup(done, {disk.disk: recorded(disk.file) for disk in one.disks}, one.definition)
    if one.damaged:
        pool.rotten.add(key)


def _known(pool: SimPool, newest: Backup, disks: Iterable[Disk]) -> None:
    sizes = {disk.disk: disk.size_mib for disk in newest.disks}
    for disk in disks:
        if disk.format is DiskFormat.QCOW2 and sizes.get(disk.name) == disk.size_mib:
            pool.since[f"disk {disk.pool}/{disk.file}", newest.pool] = newest.id


def recorded(file: str) -> str:
    """What is on a file of which the log tells only that it is there."""
    return f"as recorded: {file}"


def told(checks: BackupChecks, events: Iterable[Recorded]) -> None:
    """The invariants know what the log says of them."""
    decode = registries(IO)[1]
    for one in events:
        if one.stream.startswith(OF):
            checks.record(decode.event(one), new=False)
