"""What the qcow2 files of backups are written to: files of a pool's folder, or windows of an NBD export (windows.py). In either
case there is a path in the pool's folder that stands for each, by which it is made, renamed and removed.

All of it blocks, but for `node`; call from a thread.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from services.node.drivers.qemu.backups import targets
from services.node.drivers.qemu.devices import Words
from services.node.drivers.qemu.qemu_img import sync
from services.node.drivers.qemu.stores.settings import Window

if TYPE_CHECKING:
    from services.node.drivers.qemu.backups.jobs import Blocks

SEALED = 0o400
MIB = 1 << 20
CHUNK_BYTES = 4 << 20


class Abandoned(Exception):
    """Nobody waits for it any more."""


class Media(Protocol):
    """Raises OSError, DriverError throughout."""

    @property
    def place(self) -> str:
        """What may be full, or not answer, in an operator's words."""
        ...

    def size(self, path: Path) -> int:
        """In bytes, as it was written."""
        ...

    def head(self, path: Path, count: int) -> bytes: ...

    def digest(self, path: Path, gone: threading.Event) -> tuple[int, str]:
        """(bytes, SHA-256) of all that is in it. Raises Abandoned once `gone` is set."""
        ...

    def window(self, path: Path) -> Window | None:
        """Where it lies, for a QEMU that opens it by itself; None: it is handed over open."""
        ...

    def make(self, path: Path, size_bytes: int, draw: Callable[[Path], object]) -> None:
        """An empty qcow2 of a disk of that size, with room to grow. draw: makes one, as a file. Raises CannotStart too."""
        ...

    async def node(self, blocks: Blocks, name: str, path: Path, *, writes: bool) -> Words:
        """The block node of what is in it, as it is."""
        ...

    def seal(self, path: Path, end: int) -> None:
        """Durable, and nobody writes it again. end: QEMU wrote nothing beyond."""
        ...

    def replace(self, new: Path, path: Path) -> None:
        """In the place of what is there, which whoever has it open may read on where it is a file."""
        ...

    def empty(self, path: Path, *, clean: bool) -> None:
        """It is to be removed, and takes no room from now on, whoever has it open. clean: nobody has, or what is written to it now
        is no other's."""
        ...

    def changing(self) -> AbstractContextManager[None]:
        """Around each rename and removal of a folder with such paths."""
        ...

    def room(self) -> tuple[int, int]:
        """(free, all) in bytes."""
        ...

    def full(self, paths: Sequence[Path]) -> str:
        """How much of a backup was written until there was no more room. paths: its files."""
        ...

    def check(self) -> None:
        """Whether it answers, within a bound."""
        ...

    @property
    def bounded(self) -> bool:
        """Whether `check` can say that it does not answer, and what QEMU waits for can be cut off."""
        ...


class Files:
    """direct: the pool takes O_DIRECT."""

    bounded = False

    def __init__(self, pool: Path, direct: bool = False) -> None:
        self._pool = pool
        self._direct = direct

    @property
    def place(self) -> str:
        return str(self._pool)

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def head(self, path: Path, count: int) -> bytes:
        with path.open("rb") as file:
            return file.read(count)

    def digest(self, path: Path, gone: threading.Event) -> tuple[int, str]:
        return digest(path, gone)

    def window(self, path: Path) -> Window | None:
        return None

    def make(self, path: Path, size_bytes: int, draw: Callable[[Path], object]) -> None:
        draw(path)

    async def node(self, blocks: Blocks, name: str, path: Path, *, writes: bool) -> Words:
        number = await targets.handed(blocks, path, os.O_RDWR if writes else os.O_RDONLY, direct=self._direct)
        return targets.file_node(name, number, direct=self._direct, read_only=not writes)

    def seal(self, path: Path, end: int) -> None:
        seal(path)

    def replace(self, new: Path, path: Path) -> None:
        new.rename(path)
        sync(path.parent)

    def empty(self, path: Path, *, clean: bool) -> None:
        os.truncate(path, 0)

    def changing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def room(self) -> tuple[int, int]:
        found = os.statvfs(self._pool)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def full(self, paths: Sequence[Path]) -> str:
        written = sum(path.stat().st_blocks * 512 for path in paths) // MIB
        free, size = (bytes // MIB for bytes in self.room())
        return f"{written} MiB of the backup were written, {free} MiB of {size} MiB are free"

    def check(self) -> None:
        """A file system that hangs lets nobody ask in bounded time."""


def seal(path: Path) -> None:
    """Durable, and nobody writes it again."""
    sync(path)
    path.chmod(SEALED)


def digest(path: Path, gone: threading.Event) -> tuple[int, str]:
    """(bytes, SHA-256) of all that is in a file. Raises OSError; Abandoned once `gone` is set."""
    found, read = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while count := file.readinto(buffer):
            if gone.is_set():
                raise Abandoned
            found.update(buffer[:count])
            read += count
    return read, found.hexdigest()
