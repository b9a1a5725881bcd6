"""What making swap asks of the machine: the one seam between the steps (swap_maker.py) and the kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

TOOL_S_MAX = 60.0
SWAPOFF_S_MAX = 1800.0
"""what was swapped out comes back first"""
CHARS_MAX = 200
PACKAGES = {"dmsetup": "dmsetup", "losetup": "mount", "modprobe": "kmod", "blkid": "util-linux"}


class ToolFailed(Exception):
    """A tool is not there, or said no; the text is its own last line."""


class SwapHost(Protocol):
    def exists(self, path: str) -> bool: ...

    def read(self, path: str) -> str:
        """Raises OSError."""
        ...

    def write(self, path: str, text: str) -> None:
        """Into a file that is there. Raises OSError."""
        ...

    def run(self, *argv: str, given: str = "") -> str:
        """What the tool printed. given: on its stdin, for what must stand in no list of processes. Raises ToolFailed."""
        ...

    def allocate(self, path: str, size_mib: int) -> None:
        """A file of that size without holes, for us alone. Raises OSError, FileExistsError among them."""
        ...

    def remove(self, path: str) -> None:
        """A file; nothing happens where there is none. Raises OSError."""
        ...

    def free_mib(self, folder: str) -> int:
        """Raises OSError."""
        ...


class RealHost:
    """This machine. Blocking."""

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def read(self, path: str) -> str:
        return Path(path).read_text().strip()

    def write(self, path: str, text: str) -> None:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def run(self, *argv: str, given: str = "") -> str:
        tool = shutil.which(argv[0], path=f"{os.defpath}:/usr/sbin:/sbin")
        if tool is None:
            package = PACKAGES.get(argv[0], "util-linux")
            raise ToolFailed(f"{argv[0]} is not there: install the package {package}")
        limit_s = SWAPOFF_S_MAX if argv[0] == "swapoff" else TOOL_S_MAX
        try:
            done = subprocess.run(
                [tool, *argv[1:]], input=given, capture_output=True, text=True, timeout=limit_s, check=False,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ToolFailed(f"{argv[0]} did not end within {limit_s:.0f} s") from None
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            said = lines[-1][:CHARS_MAX] if lines else f"it ended with {done.returncode}"
            raise ToolFailed(said if said.startswith(argv[0]) else f"{argv[0]}: {said}")
        return done.stdout.strip()

    def allocate(self, path: str, size_mib: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size_mib << 20)
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def free_mib(self, folder: str) -> int:
        return shutil.disk_usage(folder).free >> 20
