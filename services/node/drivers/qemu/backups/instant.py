"""The instant of a backup: freeze ── transaction ── thaw.

The transaction makes a new bitmap on each disk and begins its job: what is written from that instant on is in the bitmap, and not
in the backup.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import msgspec

from libs.common.clock import Clock
from proto.backups import Usual
from proto.hardware import Consistency
from proto.machine import Freeze
from proto.node import OrderBackup
from services.node.drivers import NotBackedUp
from services.node.drivers.qemu.backups import filled
from services.node.drivers.qemu.backups.jobs import PREFIX, Blocks
from services.node.drivers.qemu.backups.sources import Source
from services.node.drivers.qemu.freezer import Freezer, NotFrozen
from services.node.drivers.qemu.look import device_of

MIB = 1 << 20


class Instant(msgspec.Struct, frozen=True):
    """frozen_ms: how long its guest's file systems stood still; said: what is to be known of it."""

    at_us: int
    consistency: Consistency
    frozen_ms: int
    said: tuple[str, ...]


async def seen(
    order: OrderBackup, blocks: Blocks, clock: Clock, freezer: Freezer | None, actions: Sequence[dict[str, Any]],
    beside: Callable[[], Awaitable[None]],
) -> Instant:  # fmt: skip
    """beside: what else is of that instant. Raises DriverError; NotBackedUp where file systems do not stand still and have to."""
    frozen, begun, said = 0, time.monotonic(), list[str]()
    if freezer is not None and order.freeze is not Freeze.NO:
        try:
            frozen = await freezer.freeze()
        except NotFrozen as error:
            if order.freeze is Freeze.REQUIRE:
                raise NotBackedUp(f"the file systems of {order.vm} do not stand still: {error}") from error
            said.append(f"its file systems did not stand still: {error}")
    thawed = 0
    try:
        at_us = clock.now_us()
        await blocks.do("transaction", {"actions": list(actions)})
        await beside()
    finally:
        if frozen and freezer is not None:
            thawed = await asyncio.shield(asyncio.ensure_future(freezer.thaw()))
    if frozen and not thawed:
        said.append("its guest did not say whether its file systems still stood still")
    kind = Consistency.STOPPED if freezer is None else Consistency.FILESYSTEM if thawed else Consistency.CRASH
    return Instant(at_us, kind, round((time.monotonic() - begun) * 1000) if thawed else 0, tuple(said))


def actions(
    order: OrderBackup, bitmap: str, parents: str, sources: Sequence[Source], only_filled: Collection[int], *, runs: bool
) -> list[dict[str, Any]]:
    """Of the transaction. bitmap, parents: the names of its own and of its parent's bitmaps, "": it has no parent; only_filled:
    slots of disks of which only that is read which is not zero; runs: its guest does. Pure."""
    found: list[dict[str, Any]] = []
    for source in sources:
        name = f"{PREFIX}{source.disk.slot}"
        if source.kept or runs:
            found.append({
                "type": "block-dirty-bitmap-add", "data": {"node": source.node, "name": bitmap, "persistent": source.kept},
            })  # fmt: skip
        job: dict[str, Any] = {"job-id": name, "device": source.node, "target": name, "sync": "top" if source.alone else "full"}
        job |= {"on-source-error": "report", "on-target-error": "report"}
        if parents:
            job |= {"sync": "bitmap", "bitmap": parents, "bitmap-mode": "never"}
        elif source.disk.slot in only_filled:
            found.append(filled.merged(source))
            job |= {"sync": "bitmap", "bitmap": filled.NAME, "bitmap-mode": "never"}
        if order.rate_mibps:
            job["speed"] = share(order, len(sources))
        found.append({"type": "blockdev-backup", "data": job})
    return found


def share(order: OrderBackup, among: int) -> int:
    """Of its rate, in bytes a second, for each of so many jobs."""
    return max(1, order.rate_mibps * MIB // among)


def usual(blocks: list[dict[str, Any]]) -> Usual:
    """What the guest's requests to all of its disks took until now, by QEMU's counters."""
    mine = [block["stats"] for block in blocks if device_of(block.get("qdev") or "").startswith("disk")]

    def mean_us(kind: str) -> int:
        count = sum(int(stats[f"{kind}_operations"]) for stats in mine)
        return round(sum(int(stats[f"{kind}_total_time_ns"]) for stats in mine) / count / 1000) if count else 0

    return Usual(write_us=mean_us("wr"), read_us=mean_us("rd"))
