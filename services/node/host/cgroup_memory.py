"""The memory side of control groups: what a group uses and may use, and how its limits are written in either version. A group is
named by its handle (cgroup.py): its folders, one a line.

Version 1 has a hard limit (max) and a soft one, above which a group is reclaimed from first when the host is short: that
stands for low, or, where nothing is promised, for high. It can neither promise memory (min) nor slow a group down (high).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from proto.memory import Area
from proto.node import AreaNow
from services.node.host.memory_now import parse_pressure
from services.node.host.text import read, read_int

UNLIMITED = 1 << 60
"""version 1 says `no limit` by a number near 2^63"""
NOT_ENFORCED_V1 = (
    "memory-protection (control groups of version 1 have no memory.min: soft limits stand for it)",
    "memory-throttle (control groups of version 1 have no memory.high: a group at its limit is killed, not slowed down)",
)
SWAP_NOT_BANNED_V1 = (
    "swap-ban (control groups of version 1 have no memory.swap.max: swappiness 0 keeps a VM out of swap until the host has no file"
    " cache left to give up)"
)
NOT_HELD_V2 = (
    "memory-protection (the group that the agent was started in is promised nothing itself, so promises inside it do not hold on"
    " a host that is short: give the agent's service a MemoryMin)"
)
SWAPPINESS = 60
"""the kernel's own, for groups that may be swapped"""


class Used(msgspec.Struct, frozen=True):
    """max_kib 0: no limit."""

    used_kib: int
    max_kib: int
    peak_kib: int = 0


def folder_of(handle: str) -> Path | None:
    """The group's folder in the tree that has the memory controller."""
    for line in handle.splitlines():
        folder = Path(line)
        if version_of(folder):
            return folder
    return None


def version_of(folder: Path) -> int:
    """0: no memory controller in that folder."""
    if (folder / "memory.limit_in_bytes").exists():
        return 1
    return 2 if (folder / "memory.max").exists() else 0


def promised(folder: Path) -> bool:
    """Whether promises (memory.min) to groups in this folder hold: every group above it must be promised something as well."""
    while (folder / "memory.min").exists():  # the root of the tree has none
        if read(folder / "memory.min") == "0":
            return False
        folder = folder.parent
    return True


def used(handle: str) -> Used | None:
    """None: the group has no memory controller, or is gone."""
    folder = folder_of(handle)
    return None if folder is None else used_by(folder)


def used_by(folder: Path) -> Used:
    v2 = version_of(folder) == 2
    now = read_int(folder / ("memory.current" if v2 else "memory.usage_in_bytes"), 0)
    peak = read_int(folder / ("memory.peak" if v2 else "memory.max_usage_in_bytes"), 0)
    most = read_int(folder / ("memory.max" if v2 else "memory.limit_in_bytes"), UNLIMITED)
    return Used(now >> 10, 0 if most >= UNLIMITED else most >> 10, peak >> 10)


def left_mib(folder: Path) -> int | None:
    """Below its limit, files that the kernel would let go of first not counted; None: it has no limit."""
    own = used_by(folder)
    if not own.max_kib:
        return None
    stat = folder / "memory.stat"
    files = max(_counter(stat, "total_inactive_file"), _counter(stat, "inactive_file"), 0)
    return max(0, own.max_kib - own.used_kib + (files >> 10)) >> 10


def area_now(name: str, folder: Path, swapped: bool) -> AreaNow:
    """swapped: what stands in it may be swapped out. Version 1 does not say how long its processes waited."""
    own = used_by(folder)
    some, full = parse_pressure(read(folder / "memory.pressure"))
    return AreaNow(
        name=name,
        used_mib=own.used_kib >> 10,
        peak_mib=own.peak_kib >> 10,
        max_mib=own.max_kib >> 10,
        swapped=swapped,
        hits=_hits(folder),
        kills=kills(folder),
        psi_some_pct=some,
        psi_full_pct=full,
    )


def kills(folder: Path) -> int:
    """How often the kernel killed in this group for want of memory."""
    for file in ("memory.events", "memory.oom_control"):
        if (count := _counter(folder / file, "oom_kill")) >= 0:
            return count
    return 0


def _hits(folder: Path) -> int:
    """How often it was at its limit: slowed down or reclaimed from there."""
    return max(0, _counter(folder / "memory.events", "max")) or read_int(folder / "memory.failcnt", 0)


def _counter(file: Path, name: str) -> int:
    """-1: not there."""
    for line in read(file).splitlines():
        word, _, count = line.partition(" ")
        if word == name:
            return int(count)
    return -1


def area_name(handle: str) -> str:
    """The area a VM's group lies in; "": in none."""
    folder = folder_of(handle)
    return folder.parent.name if folder is not None and folder.parent.name.startswith("vms-") else ""


def pressed(handle: str) -> str:
    """What the group used at most, and what it and its area may: for who wants to know why it was killed."""
    folder = folder_of(handle)
    if folder is None:
        return "its control group is gone"
    own = used_by(folder)
    said = f"it used up to {own.peak_kib >> 10} MiB, its own limit is {_mib(own.max_kib)}"
    if area := area_name(handle):
        around = used_by(folder.parent)
        said += f", that of its area {area} is {_mib(around.max_kib)} ({around.used_kib >> 10} MiB in use there now)"
    return said


def _mib(kib: int) -> str:
    return f"{kib >> 10} MiB" if kib else "none"


def set_limits(folder: Path, area: Area, swapped: bool = False) -> list[str]:
    """Write an area's limits and read them back; a sentence for each that did not hold. swapped: what stands in it may be swapped
    out as far as its own groups say; else nothing of it is."""
    if version_of(folder) == 2:
        names = {"memory.min": area.min_mib, "memory.low": area.low_mib}
        words = {name: str(mib << 20) for name, mib in names.items()}
        words |= {"memory.high": _or_max(area.high_mib), "memory.max": _or_max(area.max_mib)}
        if (folder / "memory.swap.max").exists():
            words["memory.swap.max"] = "max" if swapped else "0"
    else:
        soft = area.low_mib or area.min_mib or area.high_mib
        words = {"memory.soft_limit_in_bytes": _or_none(soft), "memory.limit_in_bytes": _or_none(area.max_mib)}
        words["memory.swappiness"] = str(SWAPPINESS if swapped else 0)
    return [text for name, word in words.items() if (text := _set(folder, name, word))]


def set_vm(handle: str, high_mib: int, swap_max_mib: int) -> list[str]:
    """A VM's own: how much of it may be swapped out, and above what it is slowed down (0: no such limit)."""
    folder = folder_of(handle)
    if folder is None:
        return [] if not (high_mib or swap_max_mib) else ["it has no control group for memory"]
    if version_of(folder) == 2:
        words = {"memory.high": _or_max(high_mib)}
        if (folder / "memory.swap.max").exists():
            words["memory.swap.max"] = str(swap_max_mib << 20)
    else:
        words = {"memory.soft_limit_in_bytes": _or_none(high_mib)}
        words["memory.swappiness"] = str(SWAPPINESS if swap_max_mib else 0)
        if (folder / "memory.memsw.limit_in_bytes").exists() and (most := used_by(folder).max_kib):
            words["memory.memsw.limit_in_bytes"] = str((most << 10) + (swap_max_mib << 20))
    return [text for name, word in words.items() if (text := _set(folder, name, word))]


def swap_max_kib(handle: str) -> int:
    """How much of the group may be swapped out; -1: not known (version 1 without accounting of swap)."""
    folder = folder_of(handle)
    if folder is None:
        return -1
    if version_of(folder) == 2:
        return read_int(folder / "memory.swap.max", -1) // 1024
    if read(folder / "memory.swappiness") == "0":
        return 0
    both = read_int(folder / "memory.memsw.limit_in_bytes", -1)
    most = used_by(folder).max_kib
    return (both >> 10) - most if 0 <= both < UNLIMITED and most else -1


def _or_max(mib: int) -> str:
    return str(mib << 20) if mib else "max"


def _or_none(mib: int) -> str:
    return str(mib << 20) if mib else "-1"


def _set(folder: Path, name: str, word: str) -> str:
    """Empty where the kernel has it so, else why it has not."""
    try:
        (folder / name).write_text(word)
    except OSError as error:
        in_use = f"; {used_by(folder).used_kib >> 10} MiB are in use there" if word not in ("-1", "max") else ""
        return f"{name} does not take {_readable(word)} ({error.strerror or error}{in_use})"
    seen = read(folder / name)
    if word == "-1":
        return "" if seen == "-1" or int(seen or 0) >= UNLIMITED else f"{name} is {seen} after it was lifted"
    return "" if seen == word else f"{name} is {_readable(seen)} after {_readable(word)} was written"


def _readable(word: str) -> str:
    return f"{int(word) >> 20} MiB" if word.isdigit() and int(word) >= 1 << 20 else word
