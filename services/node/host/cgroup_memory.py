"""The memory side of control groups: what a group uses and may use, and how its limits are written in either version. A group is
named by its handle (cgroup.py): its folders, one a line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.node.host.text import read

UNLIMITED = 1 << 60
"""version 1 says `no limit` by a number near 2^63"""


class Used(msgspec.Struct, frozen=True):
    """max_kib 0: no limit."""

    used_kib: int
    max_kib: int


def folder_of(handle: str) -> Path | None:
    """The group's folder in the tree that has the memory controller."""
    for line in handle.splitlines():
        folder = Path(line)
        if (folder / "memory.current").exists() or (folder / "memory.usage_in_bytes").exists():
            return folder
    return None


def used(handle: str) -> Used | None:
    """None: the group has no memory controller, or is gone."""
    folder = folder_of(handle)
    if folder is None:
        return None
    v2 = (folder / "memory.current").exists()
    now = read(folder / ("memory.current" if v2 else "memory.usage_in_bytes"))
    most = read(folder / ("memory.max" if v2 else "memory.limit_in_bytes"))
    limit = int(most) if most.isdigit() else UNLIMITED
    return Used(int(now or 0) >> 10, 0 if limit >= UNLIMITED else limit >> 10)
