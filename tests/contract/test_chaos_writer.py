"""The guest's writer as it is, on a file of this machine: one after another pass the audit, two at once do not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import records
from tests.chaos.rig import WRITER

LANE = 128
WAIT_S_MAX = 20.0


class Guest:
    """A writer with a boot of its own."""

    def __init__(self, folder: Path, disk: Path, boot: str) -> None:
        self.boot, self.run = boot, folder / f"run-{boot}"
        argv = ["sh", str(WRITER), "w", "1", str(disk), str(LANE), "0.01"]
        env = {**os.environ, "WRITER_RUN": str(self.run), "WRITER_BOOT": boot}
        self.process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def acknowledged(self) -> list[tuple[int, int]]:
        try:
            boot, lane, count = (self.run / "acknowledged").read_text().split()
        except (FileNotFoundError, ValueError):
            return []
        assert boot == self.boot
        return [(int(lane), int(count))]

    def has_written(self, count: int) -> bool:
        return bool(self.acknowledged()) and self.acknowledged()[0][1] >= count

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes((records.FIRST + 4 * LANE) * records.BLOCK))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of temporary files has no O_DIRECT")
    return path


def until(look: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end:
        if look():
            return
        time.sleep(0.02)
    raise AssertionError(f"waited for {what}")


def verdict(disk: Path, *guests: Guest) -> str:
    told = {guest.boot: guest.acknowledged() for guest in guests}
    return "; ".join(records.judge(records.read(disk.read_bytes(), LANE), "w", told))


def test_one_boot_after_another_is_one_history(tmp_path: Path, disk: Path) -> None:
    guests = []
    for boot in ("a", "b"):
        guest = Guest(tmp_path, disk, boot)
        until(lambda guest=guest: guest.has_written(4), f"records of {boot}")  # type: ignore[misc]
        guest.end()
        guests.append(guest)
    assert verdict(disk, *guests) == ""


def test_two_that_write_at_once_are_found_by_themselves_and_by_the_audit(tmp_path: Path, disk: Path) -> None:
    first = Guest(tmp_path, disk, "a")
    try:
        until(lambda: first.has_written(3), "records of the first")
        second = Guest(tmp_path, disk, "b")
        until(lambda: (first.run / "failed").exists() or (second.run / "failed").exists(), "one to meet the other")
    finally:
        first.end()
    second.end()
    assert "somebody else wrote" in verdict(disk)
