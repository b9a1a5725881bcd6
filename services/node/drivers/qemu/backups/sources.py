"""The disks that a backup reads, as their QEMU has them: their own node, its size, its bitmaps. Which one a backup may stand on."""

from __future__ import annotations

import re

import msgspec

from proto.machine import Disk
from proto.node import OrderBackup
from services.node.drivers import DriverError, NotBackedUp
from services.node.drivers.qemu import qcow2
from services.node.drivers.qemu.backups.jobs import Blocks
from services.node.drivers.qemu.backups.layout import Shelf

BITMAP = "asv-"


class Bitmap(msgspec.Struct, frozen=True):
    """sound: all that was written since it was made is in it."""

    name: str
    sound: bool


class Source(msgspec.Struct, frozen=True):
    """node: of the disk's own file, which the guest writes; kept: its bitmaps outlive the process; alone: it is a qcow2 on nothing,
    so that what it has not allocated is zero."""

    disk: Disk
    node: str
    bytes: int
    bitmaps: tuple[Bitmap, ...]
    kept: bool
    alone: bool

    def bitmap(self, name: str) -> Bitmap | None:
        return next((bitmap for bitmap in self.bitmaps if bitmap.name == name), None)


def bitmap_of(pool: str, backup: str) -> str:
    """What is written since that backup in that pool."""
    return f"{BITMAP}{pool}-{backup}"


def of_pool(pool: str, name: str) -> bool:
    return re.fullmatch(rf"{BITMAP}{re.escape(pool)}-b[0-9]+-[0-9]+", name) is not None


def age_of(bitmap: str) -> tuple[int, int]:
    """By its backup: the larger the newer."""
    found = re.search(r"b([0-9]+)-([0-9]+)$", bitmap)
    return (int(found[1]), int(found[2])) if found else (0, 0)


async def sources(blocks: Blocks, tops: dict[str, str], disks: tuple[Disk, ...]) -> tuple[Source, ...]:
    """tops: the node of each disk's own file, by the disk's name. Raises DriverError; NotBackedUp where a disk has none."""
    named = {str(n["node-name"]): n for n in await blocks.do("query-named-block-nodes", {"flat": True})}
    graph = await blocks.do("x-debug-query-block-graph")
    names = {node["id"]: str(node["name"]) for node in graph["nodes"]}
    over = {names[edge["parent"]] for edge in graph["edges"] if edge["name"] == "backing"}
    found = []
    for disk in disks:
        node = named.get(tops.get(disk.name, ""))
        if node is None:
            raise NotBackedUp(f"the disk {disk.name} is not plugged into its process")
        bitmaps = tuple(_bitmap(said) for said in node.get("dirty-bitmaps", ()))
        size, kept = int(node["image"]["virtual-size"]), node["drv"] == "qcow2"
        name = str(node["node-name"])
        found.append(Source(disk, name, size, bitmaps, kept, alone=kept and name not in over))
    return tuple(found)


def _bitmap(said: dict[str, object]) -> Bitmap:
    sound = bool(said.get("recording")) and not said.get("inconsistent") and not said.get("busy")
    return Bitmap(str(said.get("name", "")), sound)


def why_full(shelf: Shelf, order: OrderBackup, found: tuple[Source, ...]) -> str:
    """Why it cannot stand on the parent that it is to have; "": it can. Blocking."""
    parent = order.parent
    try:
        manifest = shelf.manifest(parent)
        if manifest is None:
            return f"it is full: {parent}, on which it was to stand, is not in pool {order.pool}"
        if manifest.key != order.key:
            by = f"by the key {manifest.key}" if manifest.key else "by none"
            return f"it is full: {parent} is encrypted {by}, not {order.key or 'by none'}"
        saved = {disk.disk: disk for disk in manifest.disks}
        for source in found:
            name = source.disk.name
            if name not in saved:
                return f"it is full: the disk {name} is not in {parent}"
            file = shelf.folder(parent) / saved[name].file
            if not file.exists() or qcow2.parse(shelf.media.head(file, qcow2.HEADER_BYTES)).virtual_bytes != source.bytes:
                return f"it is full: the disk {name} has another size than in {parent}, or its file there is damaged"
            bitmap = source.bitmap(bitmap_of(order.pool, parent))
            if bitmap is None:
                return f"it is full: its own file of the disk {name} does not know what was written since {parent}"
            if not bitmap.sound:
                return f"it is full: what was written to the disk {name} since {parent} is not known, as its process was killed"
    except (DriverError, OSError) as error:
        return f"it is full: {error}"
    return ""
