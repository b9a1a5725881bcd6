"""The CPU share of a group that is there already: set, and read back as the kernel has it. Both versions of control groups.

A group's handle is its folders, one a line (cgroup.py). Version 1 has one tree per controller; where a tree is missing, what it
would hold is not enforced and not found here.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from services.node.host.cgroup_tree import PERIOD_US, V1_SHARES
from services.node.host.text import read, read_int

QUOTA_US_MIN = 1_000
"""The kernel takes no less."""

AREA_WEIGHT_MAX = 10_000
"""The kernel takes no more (version 2): a hundred ordinary processes' worth."""


class CpuShare(msgspec.Struct, frozen=True):
    """weight 0: there is no group for CPU time. cap_pct: of one pCPU, 0: no cap. throttled_ns: how long tasks were held by it."""

    weight: int = 0
    cap_pct: int = 0
    throttled_ns: int = 0


def set_share(handle: str, weight: int, cap_pct: int) -> dict[str, str]:
    """What could not be set, with the kernel's word for it: `weight`, `cap`."""
    folder, version = _folder(handle)
    if folder is None:
        said = "it has no control group for CPU time"
        return {"weight": said} | ({"cap": said} if cap_pct else {})
    quota_us = max(QUOTA_US_MIN, cap_pct * PERIOD_US // 100)
    if version == 2:
        most = f"{quota_us} {PERIOD_US}" if cap_pct else f"max {PERIOD_US}"
        files = {"weight": [("cpu.weight", str(weight))], "cap": [("cpu.max", most)]}
    else:
        shares, quota = str(max(2, weight * V1_SHARES // 100)), str(quota_us) if cap_pct else "-1"
        files = {"weight": [("cpu.shares", shares)]}
        files["cap"] = [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", quota)]
    failed: dict[str, str] = {}
    for part, words in files.items():
        for file, value in words:
            try:
                (folder / file).write_text(value)
            except OSError as error:
                failed[part] = f"{file} does not take {value}: {error.strerror or error}"
    return failed


def has_share(handle: str) -> bool:
    return _folder(handle)[0] is not None


def get_share(handle: str) -> CpuShare:
    folder, version = _folder(handle)
    if folder is None:
        return CpuShare()
    stat = dict(line.split(" ", 1) for line in read(folder / "cpu.stat").splitlines() if " " in line)
    if version == 2:
        quota, _, period = read(folder / "cpu.max").partition(" ")
        cap_pct = 0 if quota in ("", "max") else round(100 * int(quota) / int(period))
        return CpuShare(read_int(folder / "cpu.weight", 0), cap_pct, int(stat.get("throttled_usec", 0)) * 1000)
    quota_us, period_us = read_int(folder / "cpu.cfs_quota_us", -1), read_int(folder / "cpu.cfs_period_us", PERIOD_US)
    return CpuShare(
        weight=round(read_int(folder / "cpu.shares", 0) * 100 / V1_SHARES),
        cap_pct=round(100 * quota_us / period_us) if quota_us > 0 else 0,
        throttled_ns=int(stat.get("throttled_time", 0)),
    )


def lift(handle: str, top: str) -> None:
    """Give the groups above, up to the one named `top`, the weights of all that they hold: then a VM's weight means the same
    whatever group it is in, also beside the host's own processes. Best effort: a group that takes no weight is left."""
    folder, version = _folder(handle)
    file, unit = ("cpu.weight", 100) if version == 2 else ("cpu.shares", V1_SHARES)
    while folder is not None and folder.name != top and top in folder.parts:
        folder = folder.parent
        held = sum(read_int(child / file, 0) for child in folder.iterdir() if child.is_dir() and _lived_in(child))
        with suppress(OSError):
            (folder / file).write_text(str(min(max(held, unit), AREA_WEIGHT_MAX * unit // 100)))


def _lived_in(folder: Path) -> bool:
    """A process is in it, or in a group below: an ended VM's group may be left for a while, and weighs nothing."""
    below = (child for child in folder.iterdir() if child.is_dir())
    return bool(read(folder / "cgroup.procs")) or any(_lived_in(child) for child in below)


def _folder(handle: str) -> tuple[Path | None, int]:
    """The group's folder in the tree of CPU time, and that tree's version."""
    for line in handle.splitlines():
        folder = Path(line)
        if (folder / "cpu.weight").exists():
            return folder, 2
        if (folder / "cpu.shares").exists():
            return folder, 1
    return None, 0
