"""Processes by pid *and* start time, so that a pid used again is never mistaken; children that die with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Mark(msgspec.Struct, frozen=True):
    """A process: its pid, and its start in clock ticks since boot."""

    pid: int
    started: int


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (the state) on; [] when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def mark_of(pid: int) -> Mark | None:
    """The mark of a running process; None where it is gone."""
    fields = _stat(pid)
    return Mark(pid, int(fields[19])) if fields else None


def alive(mark: Mark | None) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    if mark is None:
        return False
    fields = _stat(mark.pid)
    return bool(fields) and fields[0] not in "ZX" and int(fields[19]) == mark.started


def children_of(pid: int) -> list[Mark]:
    """Direct children, whichever thread started them."""
    found: list[Mark] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids = (task / "children").read_text().split()
            found += [mark for child in pids if (mark := mark_of(int(child)))]
    return found


def send(mark: Mark | None, number: signal.Signals) -> bool:
    """Signals that very process, by a descriptor of it. False where it is gone already."""
    if mark is None:
        return False
    try:
        descriptor = os.pidfd_open(mark.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(mark):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_gone(mark: Mark | None, wait_s_max: float) -> bool:
    """Waits until that process has ended (any process, not only a child). False at the timeout."""
    if mark is None or not alive(mark):
        return True
    try:
        descriptor = os.pidfd_open(mark.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return not alive(mark) or bool(poll.poll(wait_s_max * 1000)) or not alive(mark)
    finally:
        os.close(descriptor)


def end(marks: Iterable[Mark], number: signal.Signals, wait_s_max: float) -> None:
    """Signals all of them, waits for all together, and kills what is left after wait_s_max."""
    sent = [mark for mark in marks if send(mark, number)]
    until = time.monotonic() + wait_s_max
    for mark in sent:
        if not wait_gone(mark, max(0.0, until - time.monotonic())):
            send(mark, signal.SIGCONT)
            send(mark, signal.SIGKILL)
            wait_gone(mark, wait_s_max)


def dies_with_parent(number: signal.Signals) -> Callable[[], None]:
    """For Popen's preexec_fn: the kernel sends this signal when the thread that started the child ends. It must run after
    the change of user, which clears it (Popen does so). What the child itself starts is not bound by it."""
    parent = os.getpid()

    def arm() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return arm


def command_line(pid: int) -> list[str]:
    """argv of a running process; [] where it is gone or a kernel thread."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
