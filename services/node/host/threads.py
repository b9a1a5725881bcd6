"""The threads of a process: how long each ran and waited for a pCPU, where it may run, and the host's stolen time."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from services.node.host.identity import ROOT
from services.node.host.text import read


class ThreadTime(msgspec.Struct, frozen=True):
    """ran_ns, waited_ns: since the thread began; waited: it could have run, and no pCPU was given to it. last_pcpu: -1 unknown."""

    thread: int
    ran_ns: int = 0
    waited_ns: int = 0
    pcpus: tuple[int, ...] = ()
    last_pcpu: int = -1


def threads_of(pid: int, root: Path = ROOT) -> tuple[int, ...]:
    """By number; none when the process has ended."""
    try:
        return tuple(sorted(int(entry.name) for entry in (root / f"proc/{pid}/task").iterdir()))
    except OSError:
        return ()


def ran_and_waited_ns(pid: int, thread: int, root: Path = ROOT) -> tuple[int, int]:
    """Zero for a thread that has ended."""
    words = read(root / f"proc/{pid}/task/{thread}/schedstat").split()
    return (int(words[0]), int(words[1])) if len(words) >= 2 else (0, 0)


def times(pid: int, thread: int, root: Path = ROOT) -> ThreadTime:
    """All zero for a thread that has ended."""
    ran, waited = ran_and_waited_ns(pid, thread, root)
    fields = read(root / f"proc/{pid}/task/{thread}/stat").rpartition(")")[2].split()
    last = int(fields[36]) if len(fields) > 36 else -1
    return ThreadTime(thread, ran, waited, affinity(thread), last)


def affinity(thread: int) -> tuple[int, ...]:
    """The pCPUs it may run on; none when it has ended."""
    try:
        return tuple(sorted(os.sched_getaffinity(thread)))
    except OSError:
        return ()


def set_affinity(thread: int, pcpus: Collection[int]) -> str:
    """Set and read back. "" when it is so, or when the thread has ended; else the kernel's word."""
    try:
        os.sched_setaffinity(thread, pcpus)
    except ProcessLookupError:
        return ""
    except OSError as error:
        return f"thread {thread} is not let onto {_list(pcpus)}: {error.strerror or error}"
    got = affinity(thread)
    if got and set(got) != set(pcpus):
        return f"thread {thread} may run on {_list(got)}, though {_list(pcpus)} was set"
    return ""


def _list(pcpus: Collection[int]) -> str:
    return "pCPUs " + ",".join(map(str, sorted(pcpus)))


def host_ticks(root: Path = ROOT) -> tuple[int, int]:
    """(stolen by this host's own host, all) in ticks since boot, over all pCPUs."""
    words = read(root / "proc/stat").partition("\n")[0].split()[1:9]
    ticks = [int(word) for word in words]
    return (ticks[7] if len(ticks) > 7 else 0), sum(ticks)
