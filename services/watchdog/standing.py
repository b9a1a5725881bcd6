"""How this process stands in its host: in memory for good, before others on the CPU, the last to be killed for want of memory. What
cannot be had is said, and lived without."""

from __future__ import annotations

import ctypes
import os

LOCK_NOW_AND_LATER = 1 | 2
CAP_IPC_LOCK = 1 << 14
PRIORITY = 10
NICE = -15
SCORE = "-1000"


def enter() -> list[str]:
    """What could not be had, a sentence each."""
    return [said for said in (_lock(), _schedule(), _spare()) if said]


def _lock() -> str:
    """All that it has and will have. Where only a little may be locked, later requests would fail: then nothing is."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and not _capable(CAP_IPC_LOCK):
        return f"it is not locked in memory: it may lock {soft >> 10} KiB, and needs CAP_IPC_LOCK or no such limit"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(LOCK_NOW_AND_LATER) != 0:
        return f"it is not locked in memory: {os.strerror(ctypes.get_errno())}"
    return ""


def _schedule() -> str:
    """In real time, with all its threads: any of them may have the interpreter when the loop wants it. Else before others."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    except OSError as error:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        except OSError:
            return f"it is scheduled as all others are: {error.strerror}"
        return ""
    return ""


def _spare() -> str:
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError as error:
        return f"it may be killed for want of memory: {error.strerror}"
    try:
        os.write(fd, SCORE.encode())
    except OSError as error:
        return f"it may be killed for want of memory: {error.strerror}"
    finally:
        os.close(fd)
    return ""


def _capable(bit: int) -> bool:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        text = os.read(fd, 8192)
    finally:
        os.close(fd)
    for line in text.splitlines():
        if line.startswith(b"CapEff:"):
            return bool(int(line.split()[1], 16) & bit)
    return False
