"""The control groups of this cluster, found by the lists that its agents (`nodes/NODE/groups`) and its supervisor
(`groups`) leave."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TREE = "/sys/fs/cgroup/"
OURS = "asv-"


def remove(lists: Iterable[Path]) -> bool:
    """Whatever is empty of them: groups of VMs and areas, those beside included. False: one has a process in it, and stays."""
    gone = True
    for file in lists:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue  # the agent never came so far
        for line in lines:
            top = Path(line)
            if line.startswith(TREE) and top.name.startswith(OURS):
                for group in (top, *top.parent.glob(f"{top.name}-*")):
                    gone = _remove(group) and gone
    return gone


def _remove(group: Path) -> bool:
    try:
        for below in [below for below in group.iterdir() if below.is_dir()]:
            _remove(below)
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # not empty: then it is not only ours
    return True
