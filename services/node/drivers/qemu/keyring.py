"""The keys of backups that this node has: `STATE/backup-keys/<id>.key`, the agent's own. Blocking.

A key leaves the agent only into a QEMU that is to open files by it: in its memory (an open file that no name leads to), never on a
command line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from libs.common import backup_key
from libs.common.backup_key import BackupKey, BadBackupKey
from services.node.drivers import CannotStart, DriverError
from services.node.drivers.qemu.devices import secret_id

log = logging.getLogger(__name__)

FOLDER, ENDING = "backup-keys", ".key"
KEYS_MAX = 64


class NoKey(CannotStart):
    """The node does not have it."""


class Keyring:
    def __init__(self, state: Path, node: str) -> None:
        self.folder = state / FOLDER
        self._node = node

    def ids(self) -> tuple[str, ...]:
        """Of those that are of use."""
        found = []
        for path in sorted(self.folder.glob(f"*{ENDING}")) if self.folder.is_dir() else ():
            try:
                if (key := backup_key.load(path)).id == path.name.removesuffix(ENDING):
                    found.append(key.id)
            except BadBackupKey as error:
                log.warning("a key of backups is of no use: %s", error)
        return tuple(found)

    def key(self, id: str) -> BackupKey:
        """Raises NoKey."""
        try:
            if (key := backup_key.load(path := self._path(id))).id == id:
                return key
            why = f"; {path} holds another ({key.id})"
        except BadBackupKey as error:
            why = f": {error}" if self._path(id).exists() else ""
        raise NoKey(f"it is encrypted by the key {id}, which {self._node} does not have{why}: asvctl backup key give FILE")

    def put(self, key: BackupKey) -> None:
        """One that is there stays. Raises DriverError, OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = self.ids()
        if key.id in there:
            return
        if len(there) >= KEYS_MAX:
            raise DriverError(f"{self._node} has {len(there)} keys of backups; at most {KEYS_MAX} are kept: let one go")
        self._path(key.id).unlink(missing_ok=True)  # it is of no use, else it would be among those
        backup_key.save(self._path(key.id), key)

    def drop(self, id: str) -> None:
        """Raises OSError."""
        self._path(id).unlink(missing_ok=True)

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}{ENDING}"


class Told(Protocol):
    """A QEMU that is asked by its monitor."""

    async def do(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Raises DriverError."""
        ...


async def known(blocks: Told, prefix: str) -> list[str]:
    """Those that the QEMU has, by its names that begin so. Raises DriverError."""
    if all(each["name"] != "objects" for each in await blocks.do("qom-list", {"path": "/"})):
        return []  # it was never told of any object
    return [name for each in await blocks.do("qom-list", {"path": "/objects"}) if (name := str(each["name"])).startswith(prefix)]


@asynccontextmanager
async def told(blocks: Told, keys: Collection[BackupKey], prefix: str = "") -> AsyncIterator[None]:
    """The QEMU knows them while files are opened by them, and forgets them then: it needs them no more. prefix: as `secret_id`.
    Raises DriverError."""
    names = {prefix + key.id if prefix else secret_id(key.id): key for key in keys}
    try:
        for name, key in sorted(names.items()):
            await blocks.do("object-add", {"qom-type": "secret", "id": name, "data": key.secret})
        yield
    finally:
        for name in sorted(names):
            with suppress(DriverError):  # its process may be gone
                await blocks.do("object-del", {"id": name})


def in_memory(key: BackupKey, open_files: ExitStack) -> int:
    """An open file with it, for a process to inherit: that reads it by its number once, and nobody else can reach it."""
    fd = os.memfd_create("asv-backup-key", os.MFD_CLOEXEC)
    open_files.callback(os.close, fd)
    os.write(fd, key.secret.encode())
    os.fchmod(fd, 0o444)  # opened anew by a process of another user, which alone inherits it
    return fd


def handed(ring: Keyring, keys: Collection[str], open_files: ExitStack) -> tuple[tuple[str, int], ...]:
    """Each with its open file. Raises NoKey."""
    return tuple((id, in_memory(ring.key(id), open_files)) for id in sorted(keys))
