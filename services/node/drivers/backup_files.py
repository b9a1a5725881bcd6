"""What is in a backup, read by whatever a driver has for that. One question at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from proto.backup_files import FileEntry, FileKind
from services.node.drivers import DriverError


class NotRead(DriverError):
    """The question cannot be answered; the reader can answer others."""


class What(msgspec.Struct, frozen=True):
    """bytes: of a file; 0: of a folder, which comes as a tar."""

    kind: FileKind
    bytes: int


class BackupFiles(Protocol):
    """Raises NotRead; DriverError where it is of no more use."""

    @property
    def is_of_use(self) -> bool: ...

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        """By name."""
        ...

    async def what(self, path: str) -> What: ...

    def content(self, path: str, what: What) -> AsyncGenerator[bytes]:
        """A file, or a folder as a tar. One that is not read to its end makes the reader useless."""
        ...

    async def close(self) -> None:
        """Nothing is left of it. May be said twice."""
        ...
