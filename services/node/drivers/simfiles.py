"""A part of SimPool: what is in a simulated backup. On each disk is one file, `written`, which holds the word on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from proto.backup_files import FileEntry, FileKind
from services.node.drivers import DriverError
from services.node.drivers.backup_files import NotRead, What
from services.node.drivers.file_names import BadPath, apart
from services.node.drivers.simbackups import key_of, no_key

if TYPE_CHECKING:
    from services.node.drivers.simhost import SimHost

WRITTEN = b"written"


class SimBackupFiles:
    def __init__(self, on: dict[str, str]) -> None:
        self._on = {name: word.encode() for name, word in on.items()}
        self.is_of_use = True

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        disk, names = self._meant(path)
        if names:
            raise NotRead("it is no folder")
        if not disk:
            return tuple(FileEntry(name=name, kind=FileKind.PART, type="simulated") for name in sorted(self._on))
        return (FileEntry(name=WRITTEN.decode(), kind=FileKind.FILE, bytes=len(self._on[disk]), mode=0o644),)

    async def what(self, path: str) -> What:
        disk, names = self._meant(path)
        if not names:
            raise NotRead("it is no file")
        return What(FileKind.FILE, len(self._on[disk]))

    async def content(self, path: str, what: What) -> AsyncGenerator[bytes]:
        if data := self._on[self._meant(path)[0]]:
            yield data

    async def close(self) -> None:
        self.is_of_use = False

    def _meant(self, path: str) -> tuple[str, tuple[bytes, ...]]:
        """Raises NotRead."""
        try:
            at, names = apart(path)
        except BadPath as bad:
            raise NotRead(str(bad)) from bad
        if at and at not in self._on:
            raise NotRead(f"the backup has no {at!r}; it has {', '.join(sorted(self._on))}")
        if names not in ((), (WRITTEN,)):
            raise NotRead("there is no such file")
        return at, names


def open_files(host: SimHost, where: str, vm: str, backup: str) -> SimBackupFiles:
    """Raises DriverError."""
    pool = host.pool
    if where in pool.gone:
        raise DriverError(f"pool {where!r} does not answer")
    if (found := pool.backups.get(key_of(where, vm, backup))) is None:
        raise DriverError(f"the backup {backup} of {vm} is not there (any more)")
    if found.done.key and found.done.key not in host.keys:
        raise DriverError(no_key(found.done.key, host.node))
    return SimBackupFiles(found.on)
