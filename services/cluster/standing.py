"""Where the cluster's own processes stand in the control groups of this host: the control plane in an area of its own
(`asv-CLUSTER-control-plane`), so that one of them gone mad dies there, and no VM and no agent with it; agents outside of it.

The supervisor goes in first, and what it starts is born there. Limits are set by the node that is told of the group, from its
ledger. In version 2 of control groups, where a group with processes can divide nothing, each agent gets a group of its own beside.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

CONTROLLERS = ("memory", "cpu", "pids")
SCORE = -800
"""oom_score_adj: on a host out of memory any VM goes before the control plane, which goes before the agents"""


@dataclass(frozen=True, slots=True)
class Standing:
    """control_plane: its group, None where none can be made (`why`). agents: the file of each agent's group that a process writes
    itself into, watchdogs: likewise; none: they stand where the supervisor does. top: what all groups' names begin with."""

    control_plane: Path | None = None
    agents: dict[str, Path] = field(default_factory=dict)
    watchdogs: dict[str, Path] = field(default_factory=dict)
    top: Path | None = None
    why: str = ""


def enter(home: Path, nodes: Iterable[str], root: Path = Path("/")) -> Standing:
    """Put this process into the control plane's area."""
    with suppress(OSError):  # only root may
        (root / "proc/self/oom_score_adj").write_text(str(SCORE))
    found = memory_tree(root)
    if found is None:
        return Standing(why="no tree of control groups that divides memory is mounted here")
    version, base = found
    top = base / f"asv-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"
    group = top.with_name(f"{top.name}-control-plane")
    try:
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        return Standing(why=f"no control group can be made in {base}: {error.strerror}")
    if version == 1:
        beside = dict.fromkeys(nodes, base / "cgroup.procs")
        return Standing(group, beside, beside, top)
    try:
        for controller in CONTROLLERS:
            (base / "cgroup.subtree_control").write_text(f"+{controller}")
        places = {node: top.with_name(f"{top.name}-{node}") for node in nodes}
        others = {node: top.with_name(f"{top.name}-{node}-watchdog") for node in nodes}  # an agent divides its own only while alone
        for place in (*places.values(), *others.values()):
            place.mkdir(exist_ok=True)
    except OSError as error:
        with suppress(OSError):
            (base / "cgroup.procs").write_text(str(os.getpid()))
            group.rmdir()
        return Standing(why=f"{base} cannot be divided while other processes stand in it ({error.strerror}): start it by a unit")
    agents, watchdogs = ({node: at / "cgroup.procs" for node, at in each.items()} for each in (places, others))
    return Standing(group, agents, watchdogs, top)


def memory_tree(root: Path) -> tuple[int, Path] | None:
    """(version, the group this process stands in) of the tree that divides memory."""
    try:
        own = dict(_own((root / "proc/self/cgroup").read_text()))
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, *rest = right.split()
        part, at = left.split()[3:5]
        if kind == "cgroup" and "memory" in rest[-1].split(",") and "memory" in own:
            found.append((1, root / _below(at, part, own["memory"])))
        elif kind == "cgroup2" and "" in own:
            base = root / _below(at, part, own[""])
            with suppress(OSError):
                if "memory" in (base / "cgroup.controllers").read_text().split():
                    found.append((2, base))
    return min(found, default=None)


def _own(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        yield from ((name, path) for name in names.split(","))


def _below(at: str, part: str, own: str) -> str:
    group = PurePosixPath(own)
    inside = group.relative_to(part) if group.is_relative_to(part) else PurePosixPath()
    return str((PurePosixPath(at) / inside).relative_to("/"))


def join(group: Path) -> None:
    """Put the calling process, just forked, into a group; where that fails it stays where it is."""
    with suppress(OSError):
        group.write_text("0")
