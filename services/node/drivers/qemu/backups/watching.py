"""Whether what a backup is written to still answers, where that can be asked in bounded time: if it does not, QEMU's connections to
it are cut, so that the writes of its guest, which wait for the copy of what they overwrite, go on. A file system that hangs cannot
be cut off: what QEMU has in it waits in the kernel (docs/backups.md says how to mount one)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from services.node.drivers import DriverError
from services.node.drivers.qemu.backups.jobs import PREFIX, Blocks, Jobs
from services.node.drivers.qemu.backups.media import Media

EVERY_S = 2.0
ANSWERS_S_MAX = 8.0
"""so that a guest's write waits some ten seconds at most: less than its kernel complains of (30 s to 120 s)"""
_NET = re.compile(rf"{PREFIX}[0-9]+-net")


@asynccontextmanager
async def watched(media: Media, blocks: Blocks, jobs: Jobs) -> AsyncIterator[None]:
    """As long as something is written."""
    if not media.bounded:
        yield
        return
    watching = asyncio.ensure_future(_watch(media))
    cutting = asyncio.ensure_future(_cut_upon(watching, blocks, jobs))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({cutting})


async def _cut_upon(watching: asyncio.Future[str], blocks: Blocks, jobs: Jobs) -> None:
    await asyncio.wait({watching})
    if not watching.cancelled():
        jobs.end(watching.result())
        await cut(blocks)


async def _watch(media: Media) -> str:
    """Until it does not answer: how that is said."""
    while True:
        try:
            async with asyncio.timeout(ANSWERS_S_MAX):
                await asyncio.to_thread(media.check)
        except OSError as error:  # and TimeoutError, which is one
            return str(error) or f"{media.place} has not answered for {ANSWERS_S_MAX:g} s"
        await asyncio.sleep(EVERY_S)


async def cut(blocks: Blocks) -> None:
    """What waits for the server fails now."""
    with suppress(DriverError):
        found = await blocks.do("query-yank")
        mine = [one for one in found if one["type"] == "block-node" and _NET.fullmatch(str(one["node-name"]))]
        if mine:
            await blocks.do("yank", {"instances": mine})
