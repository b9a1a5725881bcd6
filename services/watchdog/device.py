"""A hardware or soft watchdog device of this host (/dev/watchdog), where one is configured: it resets the host when this process is
not scheduled any more, before the lease could end with its VMs running."""

from __future__ import annotations

import fcntl
import os
import struct

SET_TIMEOUT = 0xC0045706
"""WDIOC_SETTIMEOUT, seconds"""
GET_TIMEOUT = 0x80045707


class NoDevice(Exception):
    """It cannot be used; the text says why."""


class Device:
    """Open from now on: the kernel closes no armed one in silence. Raises NoDevice."""

    def __init__(self, path: str, lease_us: int, kill_us: int) -> None:
        wanted_s = (lease_us - kill_us) // 1_000_000
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NoDevice(f"{path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.ioctl(self._fd, SET_TIMEOUT, struct.pack("i", wanted_s))
            (self.timeout_s,) = struct.unpack("i", fcntl.ioctl(self._fd, GET_TIMEOUT, struct.pack("i", 0)))
        except OSError as error:
            os.close(self._fd)
            raise NoDevice(f"{path} is no watchdog device that takes a timeout: {error.strerror}") from None
        if self.timeout_s > wanted_s:
            self.close()
            raise NoDevice(f"{path} waits {self.timeout_s} s at least; a lease needs {wanted_s} s at most")

    def feed(self) -> None:
        os.write(self._fd, b"\0")

    def close(self) -> None:
        """In good order: it is disarmed."""
        os.write(self._fd, b"V")
        os.close(self._fd)
