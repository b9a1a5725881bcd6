"""Disks that were detached and whose files were left: which they are, and how their VM takes one again. Pure; a part of model.py.

Only the VM that had a disk takes it again, so that two of them never have one file; its name, its serial, and what it stands on
are what they were. The files outlive the VM.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.io import ReattachDisk, Refusal
from proto.machine import Disk
from services.io.states import Granted, Made

KEPT_MAX = 64
"""of one VM, the newest; what was left before is not known any more"""


def left(kept: Sequence[Disk], disk: Disk | None) -> tuple[Disk, ...]:
    """With one more, if it has a file of its own that a guest may have written to."""
    if disk is None or disk.bus.is_cd or not disk.file:
        return tuple(kept)
    return (*(one for one in kept if one.file != disk.file), disk)[-KEPT_MAX:]


def without(kept: Sequence[Disk], disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """Those that are not attached."""
    files = {disk.file for disk in disks}
    return tuple(one for one in kept if one.file not in files)


def again(command: ReattachDisk, made: Made, slot: int) -> Disk:
    """Raises Refused: DEVICE_UNKNOWN, BAD_DEVICE."""
    found = next((one for one in made.kept if one.name == command.name), None)
    if found is None:
        has = ", ".join(one.name for one in made.kept) or "none"
        if any(disk.name == command.name for disk in made.disks):
            said = f"{command.name} is attached to {made.vm}"
        else:
            said = f"{made.vm} left no disk {command.name}; it left {has}"
        raise Refused(Refusal.DEVICE_UNKNOWN, said, "name one that it left, or attach a new one")
    there = command.known.pool_ids.get(found.pool, "") if isinstance(made, Granted) else ""
    if found.pool_id and there and there != found.pool_id:
        said = f"{found.name} lies in the pool {found.pool} {found.pool_id}; that of {made.node} is {there}"
        raise Refused(Refusal.BAD_DEVICE, said, f"start {made.vm} on a node that reaches it")
    return replace(found, slot=slot)
