"""Which QEMU processes run which VM, looked at from outside, past log, agents and watchdogs alike.

A process runs its guest where its vCPU threads use CPU time: one that was stopped (SIGSTOP) or paused (QMP) uses none. Two
processes of one VM that both did between two looks are two copies of it; two of which one stands still are not (a frozen one,
which keeps its disk's lock).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LOOK_S = 0.02
RUNS_NS = 500_000
"""less vCPU time than this between two looks is not the guest's: a thread that is being made, or woken to be told to wait"""
RUNNING_NS = 5_000_000
"""so much in all, and its guest is said to run"""
SETTLED_LOOKS = 25
"""A process whose command line is another after so many looks (its exec long past) is no VM."""


@dataclass(frozen=True, slots=True, order=True)
class Copy:
    """A VM's process. node: by the folder that it works in."""

    vm: str
    node: str
    pid: int


@dataclass(slots=True)
class Life:
    """Times by CLOCK_MONOTONIC. running_s: when its guest was first seen to run; 0: not by now. ran_s: when it was last seen to."""

    copy: Copy
    seen_s: float
    last_s: float
    running_s: float = 0.0
    ran_s: float = 0.0
    vcpu_ns: int = 0


@dataclass(slots=True)
class Watch:
    """What the looks found. Pure."""

    lives: dict[Copy, Life] = field(default_factory=dict)
    doubles: list[str] = field(default_factory=list)
    looks: int = 0
    together: int = 0
    """looks at which a VM had two processes, whether they ran or not"""
    gap_s_max: float = 0.0
    _last_s: float = 0.0

    def look(self, now_s: float, vcpu_ns: dict[Copy, int]) -> None:
        """All processes that there are, with the CPU time that their vCPUs have used so far."""
        ran: dict[str, list[Copy]] = {}
        there: dict[str, int] = {}
        for copy, used in sorted(vcpu_ns.items()):
            life = self.lives.setdefault(copy, Life(copy, now_s, now_s))
            if used - life.vcpu_ns >= RUNS_NS:
                ran.setdefault(copy.vm, []).append(copy)
            if used > life.vcpu_ns:
                life.ran_s = now_s
            life.last_s, life.vcpu_ns = now_s, used
            if not life.running_s and used >= RUNNING_NS:
                life.running_s = now_s
            there[copy.vm] = there.get(copy.vm, 0) + 1
        for vm, copies in ran.items():
            if len(copies) > 1:
                where = " and ".join(f"process {copy.pid} on {copy.node}" for copy in copies)
                self.doubles.append(f"at {now_s:.3f} {vm} ran twice: {where}")
        self.together += any(number > 1 for number in there.values())
        self.gap_s_max = max(self.gap_s_max, now_s - self._last_s if self.looks else 0.0)
        self._last_s, self.looks = now_s, self.looks + 1

    def now(self, vm: str) -> list[Life]:
        """Its processes at the latest look."""
        return [life for life in self.lives.values() if life.copy.vm == vm and life.last_s == self._last_s]


class Sampler:
    """Looks many times a second in a thread of its own, from `with` to its end."""

    def __init__(self, home: Path, look_s: float = LOOK_S) -> None:
        self.watch = Watch()
        self._home = home.resolve()
        self._look_s = look_s
        self._known: dict[int, Copy] = {}
        self._others: dict[int, int] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def ask[T](self, question: Callable[[Watch], T]) -> T:
        """Of what was seen so far."""
        with self._lock:
            return question(self.watch)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # only root may: it looks before those whom it looks at
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        while not self._ended.wait(self._look_s):
            seen = self._look()
            with self._lock:
                self.watch.look(time.monotonic(), seen)

    def _look(self) -> dict[Copy, int]:
        pids = {int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()}
        for gone in self._known.keys() - pids:
            del self._known[gone]
        for gone in self._others.keys() - pids:
            del self._others[gone]
        for pid in pids - self._known.keys():
            if self._others.get(pid, 0) < SETTLED_LOOKS:
                if (copy := copy_of(pid, self._home)) is not None:
                    self._known[pid] = copy
                else:
                    self._others[pid] = self._others.get(pid, 0) + 1
        return {copy: used for pid, copy in self._known.items() if (used := vcpu_ns(pid)) is not None}


def copy_of(pid: int, home: Path) -> Copy | None:
    """What VM of that cluster a process is; None: of none, or gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if not words or not Path(words[0]).name.startswith("qemu-system"):
            return None
        names = [word.partition(",")[0].removeprefix("guest=") for word in words if word.startswith("guest=")]
        folder = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None
    if not names or not folder.is_relative_to(home / "nodes"):
        return None
    return Copy(names[0], folder.relative_to(home / "nodes").parts[0], pid)


def vcpu_ns(pid: int) -> int | None:
    """CPU time that its vCPU threads have used; None: it is gone, or has ended and waits to be reaped."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return None
        return sum(_threads_ns(pid))
    return None


def _threads_ns(pid: int) -> Iterator[int]:
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if (folder / "comm").read_text().startswith("CPU "):
                yield int((folder / "schedstat").read_text().split()[0])
