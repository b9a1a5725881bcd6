"""A network namespace of this host, in which a node has its bridges: one thread of the agent lives in it.

Nothing else of the agent does: QEMU gets its taps as open files, and its own sockets are where the agent is.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MS_REC, MS_PRIVATE = 0x4000, 0x40000


class NoSuchNamespace(ValueError):
    """It is not there, is none, or may not be entered."""


class NetworkRoom:
    """`call(do, …)` is done with the network interfaces of the namespace, /sys/class/net included; without one, with the host's.
    Blocking. Raises what `do` raises."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._thread: ThreadPoolExecutor | None = None

    def call[**P, R](self, do: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        if self.path is None:
            return do(*args, **named)
        if self._thread is None:
            thread = ThreadPoolExecutor(1, "network-namespace")
            try:
                thread.submit(_enter, self.path).result()
            except OSError as error:
                thread.shutdown(wait=False)
                raise NoSuchNamespace(f"network namespace {self.path} cannot be entered: {error.strerror}") from error
            self._thread = thread
        return self._thread.submit(do, *args, **named).result()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None


def _enter(path: Path) -> None:
    """This thread, for as long as it lives. It gets mounts of its own first, so that its /sys is nobody else's. Raises OSError."""
    with path.open("rb") as namespace:
        os.unshare(os.CLONE_NEWNS)
        _mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)
        os.setns(namespace.fileno(), os.CLONE_NEWNET)
        _mount(b"sysfs", b"/sys", b"sysfs", 0)


def _mount(what: bytes, where: bytes, kind: bytes, flags: int) -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(what, where, kind, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), where.decode())
