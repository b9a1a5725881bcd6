"""Where simulated hosts of several processes hand guests over: a folder that all of them reach, such as their pool's.

    wait    <address>.waits                  a process waits for its guest there
    hand    <address>.guest                  the guest, written whole by its source
    take    read by the target               leave: both are removed
    stale   <address>.stale                  the guest has run on elsewhere since

Each file is named by a digest of its address, and written by one side only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

GUEST_BYTES_MAX = 4096


class Guest(msgspec.Struct, frozen=True):
    """What a simulated guest has in its memory."""

    boots: int
    running_us: int
    balloon_mib: int
    busy_pct: float


class Meeting:
    """All methods block for the time of a small file; none raises for what is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def wait(self, address: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path(address, "waits").touch()

    def leave(self, address: str) -> None:
        for kind in ("waits", "guest", "stale"):
            self._path(address, kind).unlink(missing_ok=True)

    def hand(self, address: str, guest: Guest) -> bool:
        """False: nobody waits there, or somebody's guest is there already."""
        waits, whole = self._path(address, "waits"), self._path(address, "guest")
        if not waits.exists() or whole.exists():
            return False
        draft = self._path(address, "draft")
        draft.write_bytes(msgspec.json.encode(guest))
        draft.replace(whole)
        return True

    def take(self, address: str) -> Guest | None:
        try:
            with self._path(address, "guest").open("rb") as file:
                return msgspec.json.decode(file.read(GUEST_BYTES_MAX), type=Guest)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None

    def run_on(self, address: str) -> None:
        """The guest is taken back: what waits there may not go on."""
        if self._path(address, "waits").exists():
            self._path(address, "stale").touch()

    def stale(self, address: str) -> bool:
        return self._path(address, "stale").exists()

    def _path(self, address: str, kind: str) -> Path:
        return self._folder / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.{kind}"
