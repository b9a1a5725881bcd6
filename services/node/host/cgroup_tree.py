"""Where this process stands in the control groups of the machine, and what a setting is called there. Reading and pure.

There are two kinds of tree: version 2, one for all controllers, and version 1, one tree per controller; a machine may have both.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from services.node.host.disks import mounts
from services.node.host.identity import ROOT
from services.node.host.text import read

CONTROLLERS = ("cpu", "memory", "pids")
ENFORCES = {"cpu": ("cpu-weight", "cpu-limit"), "memory": ("memory-limit",), "pids": ("process-limit",)}
"""what is not enforced where the controller cannot be had"""
PERIOD_US = 100_000
V1_SHARES = 1024
"""cpu.shares of version 1 that mean the same as weight 100 of version 2"""


class Limits(msgspec.Struct, frozen=True):
    """What a VM's processes may use together; 0: no limit. cpu_weight: its share when CPUs are short, 100 is usual;
    pcpus_max: CPU seconds per second; memory_mib_max: guest memory and QEMU's own."""

    cpu_weight: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    pcpus_max: float = 0.0
    memory_mib_max: int = 0
    processes_max: int = 0


class Base(msgspec.Struct, frozen=True):
    """A folder below which groups can be made for these controllers."""

    version: int
    folder: Path
    controllers: tuple[str, ...]


def parse_own(text: str) -> dict[str, str]:
    """/proc/self/cgroup: controller -> path in its tree; "" is the tree of version 2."""
    own: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    return own


def bases(root: Path = ROOT) -> tuple[Base, ...]:
    """Where this process itself stands, in each tree that has a controller we use; version 2 first."""
    own = parse_own(read(root / "proc/self/cgroup"))
    found: list[Base] = []
    for mount in mounts(root):
        if mount.kind == "cgroup2" and "" in own:
            folder = root / below(mount.at, mount.part, own[""])
            offered = read(folder / "cgroup.controllers").split()
            found.append(Base(2, folder, tuple(c for c in CONTROLLERS if c in offered)))
        elif mount.kind == "cgroup":
            mine = tuple(c for c in CONTROLLERS if c in mount.options and c in own)
            if mine:
                found.append(Base(1, root / below(mount.at, mount.part, own[mine[0]]), mine))
    return tuple(sorted((b for b in found if b.controllers), key=lambda b: (-b.version, str(b.folder))))


def below(at: str, part: str, own: str) -> str:
    """The path of group `own` where a tree, or `part` of one (in a container), is mounted at `at`; relative to the root."""
    group = PurePosixPath(own)
    inside = group.relative_to(part) if group.is_relative_to(part) else PurePosixPath()
    return str((PurePosixPath(at) / inside).relative_to("/"))


def settings(version: int, controller: str, limits: Limits) -> dict[str, str]:
    """File -> what to write into it. Limits that are not wanted are not written: a new group has none."""
    v2 = version == 2
    quota = str(round(limits.pcpus_max * PERIOD_US))
    match controller:
        case "cpu":
            weight = {"cpu.weight": str(limits.cpu_weight)}
            shares = {"cpu.shares": str(max(2, limits.cpu_weight * V1_SHARES // 100))}
            most = {"cpu.max": f"{quota} {PERIOD_US}"}
            most_v1 = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": quota}
            return (weight if v2 else shares) | ((most if v2 else most_v1) if limits.pcpus_max else {})
        case "memory" if limits.memory_mib_max:
            return {"memory.max" if v2 else "memory.limit_in_bytes": str(limits.memory_mib_max << 20)}
        case "pids" if limits.processes_max:
            return {"pids.max": str(limits.processes_max)}
    return {}
