"""The VMs that this node guards, found by the records that its driver leaves before it lets a process go
(`<state>/vms/<vm>/record`): there is none without one. A thread reads them; the loop holds a handle of each process, by which it
is killed and its end is seen, so that no disk is needed for that, and no number is taken for another process.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from services.watchdog.clock import start_ticks

LOOK_S = 0.25
RECORD_BYTES_MAX = 64 * 1024


class Guarded(NamedTuple):
    """A process of a protected VM. pidfd: its handle; folder: one of its run folder, for sockets; groups: its control groups."""

    vm: str
    generation: int
    pid: int
    ticks: int
    pidfd: int
    folder: int
    groups: tuple[str, ...] = ()

    def close(self) -> None:
        os.close(self.pidfd)
        os.close(self.folder)


class Looked(NamedTuple):
    """found: by VM. number: of the look, so that whoever asked for one knows that it was made since."""

    found: dict[str, Guarded]
    number: int


class Table:
    """looked: called from its thread with what it found, where that is new or was asked for. The handles are the caller's then."""

    def __init__(self, state: str, boot_id: str, looked: Callable[[Looked], None]) -> None:
        self._vms = f"{state}/vms"
        self._boot_id = boot_id
        self._looked = looked
        self._asked = threading.Event()
        self._number = 0
        self._done = 0
        self._known: dict[str, tuple[int, int, int]] = {}

    def start(self) -> None:
        threading.Thread(target=self._look_all, name="table", daemon=True).start()

    def ask(self) -> int:
        """Look at once. The number of a look that begins after this."""
        self._number += 1
        self._asked.set()
        return self._number

    def look(self) -> Looked:
        """Blocking."""
        number, found = self._number, {}
        for name in self._names():
            if (guarded := self._one(name)) is not None:
                found[name] = guarded
        return Looked(found, number)

    def _look_all(self) -> None:
        keys: object = None
        while True:
            self._asked.wait(LOOK_S)
            self._asked.clear()
            try:
                before, keys = keys, self._keys()
                if keys == before and self._number == self._done:
                    continue  # no record is another than it was
                looked = self.look()
            except OSError:
                continue  # a local disk that fails: what is known stays known, and is killed if need be
            known = {vm: (each.generation, each.pid, each.ticks) for vm, each in looked.found.items()}
            if known == self._known and looked.number == self._done:
                for each in looked.found.values():
                    each.close()
                continue
            self._known, self._done = known, looked.number
            self._looked(looked)

    def _keys(self) -> list[tuple[str, int, int]]:
        """Of all records, without reading them: each is replaced when it changes. Raises OSError."""
        keys = []
        for name in self._names():
            try:
                seen = os.stat(f"{self._vms}/{name}/record")  # noqa: PTH116
            except FileNotFoundError:
                continue
            keys.append((name, seen.st_ino, seen.st_mtime_ns))
        return keys

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._vms))  # noqa: PTH208
        except FileNotFoundError:
            return []

    def _one(self, vm: str) -> Guarded | None:
        """None: it is not protected, or no process of it runs."""
        try:
            folder = os.open(f"{self._vms}/{vm}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            record = _record(folder)
            pidfd = self._handle(record) if record is not None else -1
        except (OSError, ValueError, KeyError, TypeError):
            pidfd = (
                -1
            )  # it is being made or removed, or is of another version: its process, if any, is not ours to judge
        if pidfd < 0 or record is None:
            os.close(folder)
            return None
        groups = (*str(record.get("cgroup", "")).splitlines(), *map(str, record.get("former", ())))
        return Guarded(
            vm, int(record["generation"]), int(record["pid"]), int(record["start_ticks"]), pidfd, folder, groups
        )

    def _handle(self, record: dict[str, Any]) -> int:
        """Of that very process. -1: none is guarded. Raises OSError where it is gone."""
        if not record.get("protected") or record["boot_id"] != self._boot_id:
            return -1
        pidfd = os.pidfd_open(int(record["pid"]))
        if start_ticks(int(record["pid"])) != int(record["start_ticks"]) or ended(pidfd):
            os.close(pidfd)
            return -1
        return pidfd


def ended(pidfd: int) -> bool:
    """All its threads have, and with them its locks and open files are gone."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _record(folder: int) -> dict[str, Any] | None:
    fd = os.open("record", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = json.loads(os.read(fd, RECORD_BYTES_MAX))
    finally:
        os.close(fd)
    return found if isinstance(found, dict) else None
