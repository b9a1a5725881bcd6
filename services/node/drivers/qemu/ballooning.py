"""How much memory a guest has of its own, and is asked to come to.

QEMU's balloon counts the memory that a guest was started with, and modules; what it was given by virtio-mem since, it leaves out of
what the guest has and of what is asked of it. Here it is in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.node.drivers import DriverError
from services.node.memory_plan import Balloon

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm


async def balloon(running: RunningVm) -> Balloon:
    """Raises DriverError."""
    grown = await grown_mib(running)
    return Balloon(running.record.generation, await nominal_mib(running), await has_mib(running, grown), grown)


async def nominal_mib(running: RunningVm) -> int:
    """Raises DriverError."""
    size = await running.ask("query-memory-size-summary")
    return (int(size["base-memory"]) + int(size.get("plugged-memory", 0))) >> 20


async def grown_mib(running: RunningVm) -> int:
    """What it has by virtio-mem. Raises DriverError."""
    plugged = await running.ask("query-memory-devices")
    return sum(int(d["data"]["size"]) for d in plugged if d["type"] == "virtio-mem") >> 20


async def has_mib(running: RunningVm, grown: int) -> int:
    """Of its nominal memory; -1: it has no balloon."""
    try:
        return (int((await running.ask("query-balloon"))["actual"]) >> 20) + grown
    except DriverError:
        return -1


async def come_to(running: RunningVm, mib: int) -> None:
    """No lower than the balloon reaches. Raises DriverError."""
    await running.ask("balloon", {"value": max(1, mib - await grown_mib(running)) << 20})
