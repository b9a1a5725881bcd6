"""What lies in the CD drives of a running VM: tray opened, the old taken out, the new put in, tray closed.

A guest may hold its drive locked (Linux does while it has the disc mounted). Then it is asked to let go (it sees the button
pressed), which is pending until its tray is seen open; by force it is opened all the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from proto.hardware import Misfit
from proto.machine import Disk
from services.node.drivers import DriverError
from services.node.drivers.qemu import devices, disks
from services.node.drivers.qemu.devices import device_id, disk_id, medium_id

if TYPE_CHECKING:
    from services.node.drivers.qemu.launch import Host
    from services.node.drivers.qemu.machine import RunningVm

_DRIVE = re.compile(r"disk([0-9]+)-dev")
_IMAGE = re.compile(r".*/images/([^/]+)/disk\.raw")
CLOSED = "is not open"
OPENED_MAX = 5
LOCKED = "the guest holds the drive locked (it uses what is in it): it was asked to let go; or say it with --force"


async def change(vm: RunningVm, host: Host, disk: Disk, folder: str, found: list[Misfit]) -> None:
    """Make the drive hold what is wanted. folder: of its pool, in QEMU's words. Raises DriverError, OSError."""
    drive = (await _drives(vm))[disk.slot]
    wanted = medium_id(disk.slot, disk.image or disk.file) if disk.image or disk.file else ""
    lies = str(drive.get("inserted", {}).get("node-name", ""))
    if lies == wanted and not (wanted and drive.get("tray_open")):
        return
    id = device_id(disk_id(disk.slot))
    if lies != wanted:
        if lies and not drive.get("tray_open") and not await _opened(vm, disk.slot, disk.force):
            found.append(Misfit(what="disk", slot=disk.slot, sentence=LOCKED, pending=True))
            return
        if lies:
            await _when_open(vm, "blockdev-remove-medium", {"id": id})
        await clear(vm, disk.slot)
        if wanted:
            iso = disks.base_of(host.pools[disk.pool], disk.image) if disk.image else None
            for node in devices.medium_nodes(disk, folder, iso):
                await vm.do("blockdev-add", node)
            await _when_open(vm, "blockdev-insert-medium", {"id": id, "node-name": wanted})
    await vm.do("blockdev-close-tray", {"id": id})


async def _when_open(vm: RunningVm, verb: str, words: dict[str, Any]) -> None:
    """Opens the tray by force, and does that. A guest may close it at any time, also between the two (Linux does whenever something
    opens a drive, so while it gets to know one that was just plugged): then it is opened anew. Raises DriverError."""
    for left in reversed(range(OPENED_MAX)):
        await vm.fitting.away("blockdev-open-tray", {"id": words["id"], "force": True})
        try:
            await vm.do(verb, words)
        except DriverError as error:
            if not left or CLOSED not in str(error):
                raise
        else:
            return


async def _opened(vm: RunningVm, slot: int, force: bool) -> bool:
    """Whether the tray is open, for we asked. QEMU reports no error of a drive that is locked: it passes the wish on to the guest.
    Raises DriverError."""
    await vm.do("blockdev-open-tray", {"id": device_id(disk_id(slot)), "force": force})
    return bool((await _drives(vm))[slot].get("tray_open"))


async def media(vm: RunningVm) -> tuple[tuple[int, str], ...]:
    """Of each CD drive its slot, and the image in it. Raises DriverError."""
    return tuple((slot, image_in(drive.get("inserted", {}))) for slot, drive in sorted((await _drives(vm)).items()))


async def clear(vm: RunningVm, slot: int) -> None:
    """Take away the block nodes of what lies in no drive any more; those in use stay. Raises DriverError."""
    nodes = {str(node["node-name"]) for node in await vm.do("query-named-block-nodes", {"flat": True})}
    for node in sorted((n for n in nodes if n.startswith(f"cd{slot}-")), key=lambda n: n.endswith("-file")):
        await vm.fitting.away("blockdev-del", {"node-name": node})


def image_in(inserted: dict[str, Any]) -> str:
    """The image that QEMU says is in a drive; "": none of ours."""
    match = _IMAGE.fullmatch(str(inserted.get("file", "")))
    return match[1] if match else ""


async def _drives(vm: RunningVm) -> dict[int, dict[str, Any]]:
    """What QEMU says of each, by slot."""
    found: dict[int, dict[str, Any]] = {}
    for block in await vm.do("query-block"):
        names = (match for part in str(block.get("qdev", "")).split("/") if (match := _DRIVE.fullmatch(part)))
        if (match := next(names, None)) is not None and "tray_open" in block:
            found[int(match[1])] = block
    return found
