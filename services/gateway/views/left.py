"""Disks that were detached from a VM with their files left, and may be attached to it again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from proto import io
from proto.machine import Disk

KEPT_MAX = 64
HEARD = frozenset({io.DevicesChanged})


class LeftDisk(msgspec.Struct, frozen=True):
    name: str
    size_mib: int
    pool: str
    file: str


def after(known: tuple[LeftDisk, ...], had: Sequence[Disk], event: Any) -> tuple[LeftDisk, ...]:
    """had: the VM's disks before the event."""
    match event:
        case io.DevicesChanged(change=change, disks=disks):
            here = {disk.file for disk in disks}
            rest = tuple(one for one in known if one.file not in here)
            if change.kind not in (io.ChangeKind.DETACH_DISK, io.ChangeKind.UNDO) or change.delete:
                return rest
            gone = (d for d in had if d.name == change.name and d.file == change.file and not d.bus.is_cd)
            return (*rest, *(LeftDisk(d.name, d.size_mib, d.pool, d.file) for d in gone))[-KEPT_MAX:]
        case _:
            return known
