"""What the pools of a node hold now: size and room as their file systems say, and what its files take."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from proto.pools import FILES_MAX
from proto.space import FileNow, PoolNow
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.stores.settings import Nbd, Remote
from services.node.host.mounts import kind_of

MIB = 1 << 20
BLOCK = 512
LOOK_S_MAX = 2.0
"""A file server that is away lets nobody look for as long as it is: its pool is said not to answer meanwhile."""


class PoolFigures:
    """One look of a kind at a pool at a time, however often is asked: a thread that waits for a file server is not called back."""

    def __init__(self, pools: Mapping[str, Path], remotes: Mapping[str, Remote] | None = None) -> None:
        self._pools = pools
        self._remotes = remotes or {}
        self._looks: dict[tuple[str, bool], asyncio.Future[PoolNow]] = {}

    async def all(self, files: bool) -> tuple[PoolNow, ...]:
        return tuple(await asyncio.gather(*(self._one(name, files) for name in sorted(self._pools))))

    async def _one(self, name: str, files: bool) -> PoolNow:
        key = name, files
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = asyncio.ensure_future(asyncio.to_thread(self._figures, name, files))
            look.add_done_callback(lambda done: self._looked(key, done))
        try:
            return await asyncio.wait_for(asyncio.shield(look), LOOK_S_MAX)
        except TimeoutError:
            return PoolNow(name=name, error=f"{self._pools[name]} has not answered for {LOOK_S_MAX:g} s")
        except OSError as error:
            return PoolNow(name=name, error=f"{self._pools[name]}: {error.strerror or error}")

    def _figures(self, name: str, files: bool) -> PoolNow:
        """Of one that is no folder nobody says what it holds: its folder has the leases only."""
        if (remote := self._remotes.get(name)) is None:
            return figures(name, self._pools[name], files)
        takes = isinstance(remote, Nbd) and bool(remote.backups)
        return PoolNow(name=name, id=disks.id_of(self._pools[name]), kind=remote.kind, backups=takes)

    def _looked(self, key: tuple[str, bool], done: asyncio.Future[PoolNow]) -> None:
        self._looks.pop(key, None)
        if not done.cancelled():
            done.exception()  # nobody may be waiting for it any more


def figures(name: str, pool: Path, files: bool = False) -> PoolNow:
    """Blocking. free_mib: what one who is not root may still write. Raises OSError."""
    seen = os.statvfs(pool)
    size_mib, free_mib = seen.f_blocks * seen.f_frsize // MIB, seen.f_bavail * seen.f_frsize // MIB
    now = PoolNow(name=name, id=_id(pool), kind=kind_of(pool), size_mib=size_mib, free_mib=free_mib)
    return _with_files(now, pool) if files else now


def _with_files(now: PoolNow, pool: Path) -> PoolNow:
    """A sparse file takes what was written to it, not what it is long."""
    found = sorted(((_taken(entry), entry.name) for entry in os.scandir(pool / "disks") if _plain(entry)), reverse=True)
    images = sum(_taken(entry) for folder in os.scandir(pool / "images") if folder.is_dir() for entry in os.scandir(folder))
    named = tuple(FileNow(file=file, used_mib=-(-size // MIB)) for size, file in found[:FILES_MAX])
    disks_mib = -(-sum(size for size, _ in found) // MIB)
    return msgspec.structs.replace(now, disks_mib=disks_mib, images_mib=-(-images // MIB), files=named)


def _plain(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)


def _taken(entry: os.DirEntry[str]) -> int:
    """0: it was removed between two looks."""
    try:
        return entry.stat(follow_symlinks=False).st_blocks * BLOCK
    except FileNotFoundError:
        return 0


def _id(pool: Path) -> str:
    """"": it has none yet, and is too full to be given one."""
    try:
        return disks.id_of(pool)
    except OSError:
        return ""
