"""The control groups of this cluster, found by the lists that its agents (`nodes/NODE/groups`) and its supervisor
(`groups`) leave."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

TREE = "/sys/fs/cgroup/"
OURS = "asv-"
AGAIN_S = 0.02


def remember(file: Path, top: Path | None) -> None:
    """Where the control plane's groups are now, beside those of earlier supervisors, started elsewhere, that are still there."""
    try:
        before = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        before = []
    kept = [line for line in before if line.startswith(TREE) and any(Path(line).parent.glob(f"{Path(line).name}*"))]
    lines = dict.fromkeys([*kept, *([str(top)] if top is not None else [])])
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def remove_within(lists: Iterable[Path], wait_s_max: float) -> bool:
    """As `remove`; the kernel takes its time to take a process that has just ended out of its group."""
    files, until = list(lists), time.monotonic() + wait_s_max
    while not (gone := remove(files)) and time.monotonic() < until:
        time.sleep(AGAIN_S)
    return gone


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
