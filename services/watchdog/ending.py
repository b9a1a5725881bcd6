"""Killing: by the control group where the VM has one of its own that can (version 2), and by the handle of its process; never by a
number alone. What the loop says here needs no disk."""

from __future__ import annotations

import os
import signal

from services.watchdog.table import Guarded

TREE = "/sys/fs/cgroup/"


def kill(guarded: Guarded) -> None:
    """SIGKILL. It is over when its handle says so: a process that waits for a hung disk ends when that comes back."""
    for group in guarded.groups:
        if group.startswith(TREE):
            _kill_group(f"{group}/cgroup.kill")
    send(guarded, signal.SIGKILL)


def send(guarded: Guarded, number: signal.Signals) -> bool:
    """To that very process. False: it has ended."""
    try:
        signal.pidfd_send_signal(guarded.pidfd, number)
    except ProcessLookupError:
        return False
    return True


def _kill_group(path: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # a group of version 1, or one that is gone
    try:
        os.write(fd, b"1")
    except OSError:
        return
    finally:
        os.close(fd)
