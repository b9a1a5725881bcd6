"""What a successor must know, in the node's own folder: written by a thread, for a local disk may hang too. What is older than it
could be is safe: a lease then ends earlier."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from libs.lease.effects import Saved

FILE = "lease.json"
BYTES_MAX = 1 << 20
SAID_MAX = 200


class Keeper:
    """The newest that it was given is on disk soon; what rises (epoch, term) also over a power cut."""

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/{FILE}"
        self._more = threading.Condition()
        self._next: dict[str, Any] | None = None
        self._synced = (0, 0)

    def start(self) -> None:
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def load(self) -> tuple[Saved, tuple[str, ...]] | None:
        """With the VMs that were held still. None: there is nothing, or nothing that can be read. Blocking."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = json.loads(os.read(fd, BYTES_MAX))
            finally:
                os.close(fd)
            still = tuple(map(str, found.pop("still")))
            lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
            return Saved(**{**found, **lists}), still
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def put(self, saved: Saved, still: tuple[str, ...]) -> None:
        with self._more:
            self._next = {**saved._asdict(), "still": still}
            self._more.notify()

    def _keep(self) -> None:
        while True:
            with self._more:
                while self._next is None:
                    self._more.wait()
                value, self._next = self._next, None
            try:
                self._write(value)
            except OSError as error:
                say(f"its lease cannot be kept on disk: {error}")

    def _write(self, value: dict[str, Any]) -> None:
        draft, rises = f"{self._path}.draft", (value["epoch"], value["term"])
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(value).encode())
            if rises != self._synced:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(draft, self._path)  # noqa: PTH105
        self._synced = rises


class Voice:
    """Words for people on stderr, by a thread: a log may lie on a disk that hangs. What is too much is not said."""

    def __init__(self) -> None:
        self._more = threading.Condition()
        self._lines: list[str] = []
        threading.Thread(target=self._speak, name="voice", daemon=True).start()

    def say(self, text: str) -> None:
        with self._more:
            if len(self._lines) < SAID_MAX:
                self._lines.append(text)
                self._more.notify()

    def _speak(self) -> None:
        while True:
            with self._more:
                while not self._lines:
                    self._more.wait()
                lines, self._lines = self._lines, []
            sys.stderr.write("".join(f"watchdog: {line}\n" for line in lines))
            sys.stderr.flush()


_voice: list[Voice] = []


def say(text: str) -> None:
    if not _voice:
        _voice.append(Voice())
    _voice[0].say(text)
