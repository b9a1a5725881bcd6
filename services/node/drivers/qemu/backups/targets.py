"""The block nodes that a backup's job writes to.

    backupN (quorum) ──▶ backupN-packed (compress) ──▶ backupN-own (qcow2) ──▶ backupN-file, as its media is (media.py)
        └──────────────▶ backupN-spare (null-co)

What the guest is about to overwrite is copied before, within its own request; and were that copy to fail, QEMU (up to 9.0 at least)
would fail the guest's request, or stop the guest for want of room in a pool that is none of its own. So the job's target is two
of which one has to succeed, the other is nothing, and that the real one failed comes as an event (QUORUM_REPORT_BAD), which ends
the job.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.node.drivers import DriverError
from services.node.drivers.qemu.backups.jobs import PREFIX, Blocks

if TYPE_CHECKING:
    from services.node.drivers.qemu.backups.media import Media

type Words = dict[str, Any]


async def add(
    blocks: Blocks, name: str, media: Media, path: Path, size_bytes: int, *, compress: bool, cipher: Words
) -> None:
    """The file is there, and empty. name: of the node that the job writes to; cipher: as Cipher.words. Raises DriverError,
    OSError."""
    await blocks.do("blockdev-add", await media.node(blocks, f"{name}-file", path, writes=True))
    await blocks.do("blockdev-add", own_node(name, cipher))
    child = f"{name}-own"
    if compress:
        child = f"{name}-packed"
        await blocks.do("blockdev-add", {"driver": "compress", "node-name": child, "file": f"{name}-own"})
    await blocks.do("blockdev-add", {"driver": "null-co", "node-name": f"{name}-spare", "size": size_bytes})
    both = {"driver": "quorum", "node-name": name, "children": [child, f"{name}-spare"], "vote-threshold": 1}
    await blocks.do("blockdev-add", both)


async def flush(blocks: Blocks, name: str, cipher: Words) -> int:
    """What was written to the file is in it: opening it anew, as it is, writes out its tables, and says whether that went well.
    Where what was written ends. Raises DriverError."""
    await blocks.do("blockdev-reopen", {"options": [own_node(name, cipher)]})
    return await end_of(blocks, f"{name}-file")


async def end_of(blocks: Blocks, node: str) -> int:
    """What was written to it in this process ends there, in bytes. Raises DriverError."""
    found = await blocks.do("query-blockstats", {"query-nodes": True})
    for each in found:
        if each.get("node-name") == node:
            return int(each["stats"]["wr_highest_offset"])
    raise DriverError(f"QEMU does not say how far it has written {node}")


def own_node(name: str, cipher: Words) -> Words:
    top: Words = {"driver": "qcow2", "node-name": f"{name}-own", "file": f"{name}-file", "read-only": False, "backing": None}
    return {**top, "discard": "unmap", "detect-zeroes": "unmap", **cipher}


async def handed(blocks: Blocks, path: Path, how: int, *, direct: bool) -> int:
    """The number of the set under which QEMU has the file open. Raises DriverError, OSError."""
    fd = os.open(path, how | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_DIRECT if direct else 0))
    try:
        return await blocks.give_set(fd, PREFIX)
    finally:
        os.close(fd)


def file_node(name: str, number: int, *, direct: bool, read_only: bool) -> Words:
    """A file that QEMU was handed open. It is nobody else's, so it is not locked."""
    cache = {"direct": direct, "no-flush": False}
    node: Words = {"driver": "file", "node-name": name, "filename": f"/dev/fdset/{number}", "read-only": read_only}
    return {**node, "locking": "off", "cache": cache, "discard": "unmap", "aio": "threads"}
