"""A pool on a small file system of its own, which tests fill and empty; skipped where this machine lets us mount none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallPool:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave_kib: int = 0) -> None:
        """Takes all space but so much."""
        with self._ballast.open("ab") as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
                    file.flush()
            except OSError:
                pass
        with self._ballast.open("rb+") as file:
            file.truncate(self._ballast.stat().st_size - leave_kib * 1024)

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_pool(folder: Path, size_mib: int) -> Iterator[SmallPool]:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "asvpool", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield SmallPool(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
