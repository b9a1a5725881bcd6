"""Where this node has made control groups, on a list beside its state, and how they are taken away again: by an agent that leaves,
or by whoever destroys its cluster (services/cluster/groups.py reads the same list).

An agent may be started somewhere else in the trees than the one before it, as by another login; groups that the earlier one made
stay on the list until they are gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from services.node.host.text import read

LIST = "groups"
OURS = "asv-"
LINES_MAX = 1000


def remember(state: Path, folders: Iterable[Path]) -> None:
    """The groups of this agent, beside those of earlier ones that are still there."""
    lines = dict.fromkeys([*(line for line in _listed(state) if _tops(Path(line))), *map(str, folders)])
    file = state / LIST
    beside = file.with_suffix(".new")
    beside.write_text("".join(f"{line}\n" for line in list(lines)[-LINES_MAX:]), encoding="utf-8")
    beside.replace(file)


def clear(state: Path) -> list[str]:
    """Takes away all that is listed and empty, areas beside included. A sentence for each that stays; said again, it goes on."""
    tops = [top for line in _listed(state) for top in _tops(Path(line))]
    left: list[str] = []
    for top in sorted(tops, key=_holds_this):  # where this process stands comes last: then nothing else is divided there
        _step_out(top)
        left += [f"{folder}: {why}" for folder, why in _removed(top)]
    if not left:
        (state / LIST).unlink(missing_ok=True)
    return left


def _listed(state: Path) -> list[str]:
    try:
        lines = (state / LIST).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line for line in lines if Path(line).is_absolute() and Path(line).name.startswith(OURS)]


def _tops(group: Path) -> list[Path]:
    """The group and the areas beside it, as far as they are there. The hash in its name keeps other nodes' apart."""
    return [folder for folder in (group, *group.parent.glob(f"{group.name}-*")) if folder.is_dir()]


def _holds_this(group: Path) -> bool:
    return str(os.getpid()) in read(group / "cgroup.procs").split()


def _step_out(group: Path) -> None:
    """Where this very process stands in it, as in the area of agents, it goes back to the group above. In version 2 that one may
    hold a process only once it divides nothing any more, so it is no more divided where nobody else is in it."""
    if not _holds_this(group):
        return
    above = group.parent
    with suppress(OSError):
        if not [folder for folder in above.iterdir() if folder.is_dir() and folder != group]:
            for controller in read(above / "cgroup.subtree_control").split():
                (above / "cgroup.subtree_control").write_text(f"-{controller}")
        (above / "cgroup.procs").write_text(str(os.getpid()))


def _removed(group: Path) -> list[tuple[Path, str]]:
    """From the inside out: what stays, and why."""
    left = [each for below in sorted(group.iterdir()) if below.is_dir() for each in _removed(below)]
    if left:
        return left
    try:
        group.rmdir()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [(group, error.strerror or str(error))]
    return []
