"""Which of a disk is anything but zeros, so that a full backup reads and counts that alone.

A qcow2 disk on nothing needs none of this: what its own table lacks is zero (`sync: top`). One on an image, or a raw one, is looked
at before the backup's instant, while its guest runs:

    filled         a bitmap at the disk's node: what its guest writes from now on; at the instant what was found is merged into it
    backupN-map    raw, on backupN-void, which is nothing (null-co): its bitmap is what was found

QEMU has no command that sets bits in a bitmap; what is discarded on a node of nothing sets them. Both by QEMU's own NBD server, on
a socket that only the agent can reach, for as long as that takes. Where it serves somebody else, all is read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from services.node.drivers import DriverError
from services.node.drivers.qemu import nbd_cache
from services.node.drivers.qemu.backups.jobs import PREFIX, Blocks
from services.node.drivers.qemu.backups.sources import Source

log = logging.getLogger(__name__)

NAME = "filled"
"""of the bitmaps, of the exports, and of the socket that is handed over"""
GRAIN = 65536
WINDOW = 128 << 20
"""asked for at once, as in home.py"""
FIND_S_MAX = 60.0
"""longer than that a backup does not wait for it"""


def map_of(source: Source) -> str:
    """The node whose bitmap has what was found."""
    return f"{PREFIX}{source.disk.slot}-map"


def merged(source: Source) -> dict[str, Any]:
    """The action that makes the disk's bitmap whole."""
    found = [{"node": map_of(source), "name": NAME}]
    return {"type": "block-dirty-bitmap-merge", "data": {"node": source.node, "target": NAME, "bitmaps": found}}


async def found(blocks: Blocks, source: Source, *, full: bool) -> bool:
    """Whether its bitmap is there, and only needs `merged`; a backup that is not full, or that QEMU can make well by itself, needs
    none."""
    await away(blocks, source)
    if source.alone or not full:
        return False
    try:
        await find(blocks, source)
    except (DriverError, OSError, TimeoutError) as error:
        log.info("all of the disk %s is read, zeros too: %s", source.disk.file, error)
        await away(blocks, source)
        return False
    return True


async def find(blocks: Blocks, source: Source) -> None:
    """What was there is in the bitmap of its map. Raises DriverError, OSError, TimeoutError; `away` then removes what there is."""
    void = f"{PREFIX}{source.disk.slot}-void"
    await blocks.do("block-dirty-bitmap-add", _bitmap(source.node))
    await blocks.do("blockdev-add", {"driver": "null-co", "node-name": void, "size": source.bytes, "discard": "unmap"})
    raw = {"driver": "raw", "node-name": map_of(source), "file": void, "discard": "unmap"}
    await blocks.do("blockdev-add", raw)
    await blocks.do("block-dirty-bitmap-add", _bitmap(map_of(source)))
    async with (
        asyncio.timeout(FIND_S_MAX),
        _served(blocks) as server,
        _opened(blocks, server, source.node, "disk") as disk,
        _opened(blocks, server, map_of(source), "map") as map,
    ):
        for at in range(0, disk.size, WINDOW):
            await _window(disk, map, at, min(WINDOW, disk.size - at))


async def _window(disk: nbd_cache.Export, map: nbd_cache.Export, at: int, length: int) -> None:
    start, run = at, 0
    for size, status in [*await disk.extents(at, length), (0, nbd_cache.ZERO)]:
        if not status & nbd_cache.ZERO:
            run += size
            continue
        if run:
            await map.discard(start, run)
        start, run = start + run + size, 0


async def away(blocks: Blocks, source: Source) -> None:
    """Its bitmap, which costs a little with each write; also one that an earlier agent left."""
    for which in ("disk", "map"):
        with suppress(DriverError):
            await blocks.do("block-export-del", {"id": f"{NAME}-{which}", "mode": "hard"})
    with suppress(DriverError):  # it may not be there
        await blocks.do("block-dirty-bitmap-remove", {"node": source.node, "name": NAME})


def _bitmap(node: str) -> dict[str, Any]:
    return {"node": node, "name": NAME, "granularity": GRAIN, "persistent": False}


@asynccontextmanager
async def _served(blocks: Blocks) -> AsyncIterator[Path]:
    """QEMU listens there. Raises DriverError, OSError."""
    if not await blocks.do("query-block-exports"):
        with suppress(DriverError):  # one that an earlier agent began, and that serves nobody
            await blocks.do("nbd-server-stop")
    with tempfile.TemporaryDirectory(prefix="asv-filled-") as folder, socket.socket(socket.AF_UNIX) as listening:
        path = Path(folder) / "nbd"
        listening.bind(str(path))
        listening.listen(4)
        await blocks.give(NAME, listening.fileno())
        await blocks.do("nbd-server-start", {"addr": {"type": "fd", "data": {"str": NAME}}})
        try:
            yield path
        finally:
            with suppress(DriverError):
                await blocks.do("nbd-server-stop")


@asynccontextmanager
async def _opened(blocks: Blocks, server: Path, node: str, which: str) -> AsyncIterator[nbd_cache.Export]:
    """Raises DriverError, OSError."""
    id = f"{NAME}-{which}"
    words = {"type": "nbd", "id": id, "node-name": node, "name": which, "writable": which == "map"}
    await blocks.do("block-export-add", words)
    try:
        dial = socket.socket(socket.AF_UNIX)
        dial.connect(str(server))  # it listens: this does not wait
        export = await nbd_cache.opened(dial, which, nbd_cache.STATUS)
        try:
            yield export
        finally:
            await export.close()
    finally:
        with suppress(DriverError):
            await blocks.do("block-export-del", {"id": id, "mode": "hard"})
