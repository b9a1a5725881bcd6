"""What the pools of a node hold now: size and room as their file systems say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from proto.space import PoolNow
from services.node.drivers.qemu import disks
from services.node.host.mounts import kind_of

MIB = 1 << 20
LOOK_S_MAX = 2.0
"""A file server that is away lets nobody look for as long as it is: its pool is said not to answer meanwhile."""


class PoolFigures:
    """One look at a pool at a time, however often is asked: a thread that waits for a file server cannot be called back."""

    def __init__(self, pools: Mapping[str, Path]) -> None:
        self._pools = pools
        self._looks: dict[str, asyncio.Future[PoolNow]] = {}

    async def all(self) -> tuple[PoolNow, ...]:
        return tuple(await asyncio.gather(*(self._one(name) for name in sorted(self._pools))))

    async def _one(self, name: str) -> PoolNow:
        look = self._looks.get(name)
        if look is None:
            look = self._looks[name] = asyncio.ensure_future(asyncio.to_thread(figures, name, self._pools[name]))
            look.add_done_callback(lambda done: self._looked(name, done))
        try:
            return await asyncio.wait_for(asyncio.shield(look), LOOK_S_MAX)
        except TimeoutError:
            return PoolNow(name=name, error=f"{self._pools[name]} has not answered for {LOOK_S_MAX:g} s")
        except OSError as error:
            return PoolNow(name=name, error=f"{self._pools[name]}: {error.strerror or error}")

    def _looked(self, name: str, done: asyncio.Future[PoolNow]) -> None:
        self._looks.pop(name, None)
        if not done.cancelled():
            done.exception()  # nobody may be waiting for it any more


def figures(name: str, pool: Path) -> PoolNow:
    """Blocking. free_mib: what one who is not root may still write. Raises OSError."""
    seen = os.statvfs(pool)
    size_mib, free_mib = seen.f_blocks * seen.f_frsize // MIB, seen.f_bavail * seen.f_frsize // MIB
    return PoolNow(name=name, id=_id(pool), kind=kind_of(pool), size_mib=size_mib, free_mib=free_mib)


def _id(pool: Path) -> str:
    """"": it has none yet, and is too full to be given one."""
    try:
        return disks.id_of(pool)
    except OSError:
        return ""
