"""Who uses the processors meanwhile: from /proc, in seconds of CPU time."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_total_s() -> float:
    """All work on this machine since it was started, user, system, interrupts and stolen time."""
    values = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, softirq, steal = values
    return (user + nice + system + irq + softirq + steal) / _TICKS


def tree_cpu_s(pid: int) -> float:
    """A process and all its children, also those that have ended and were waited for."""
    used: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it ended in between
                continue
            used[int(entry.name)] = sum(int(value) for value in fields[11:15])
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    todo, total = [pid], 0
    while todo:
        one = todo.pop()
        total += used.get(one, 0)
        todo += children.get(one, [])
    return total / _TICKS
