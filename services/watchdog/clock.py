"""This host's clock and boot."""

from __future__ import annotations

import os
import time


def now_us() -> int:
    """Since boot; it runs on while the host sleeps, and nobody sets it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def boot_id() -> str:
    """As the kernel names this boot."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY)
    try:
        return os.read(fd, 64).decode("ascii").strip()
    finally:
        os.close(fd)


def start_ticks(pid: int) -> int | None:
    """When the process began, in ticks since boot; None: there is none. One whose first thread has ended may have others."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        words = os.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(fd)
    return int(words[19]) if words else None
