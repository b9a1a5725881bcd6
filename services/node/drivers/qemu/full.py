"""Disks of a VM that could not be written for want of room. QEMU then stops the guest (io-error), keeps the request, and makes it
again at the next `cont`; an NVMe disk knows no such stop, its guest is told of an error (proto/models.py: waits_for_space)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from services.node.drivers.qemu.qmp import QmpEvent

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

_NODE = re.compile(r"disk([0-9]+)")
_DEVICE = re.compile(r"disk([0-9]+)-dev")


class Full:
    """slots: of those disks, as far as known (while a disk is copied its block node has no name of ours). stopped: since the guest
    last went on, one stopped it."""

    def __init__(self) -> None:
        self.slots: set[int] = set()
        self.stopped = False

    def hear(self, event: QmpEvent) -> None:
        """BLOCK_IO_ERROR; the STOP follows it."""
        if not event.data.get("nospace") or event.data.get("action") != "stop":
            return
        self.stopped = True
        if match := _NODE.fullmatch(str(event.data.get("node-name", ""))):
            self.slots.add(int(match[1]))

    def went_on(self) -> None:
        self.slots, self.stopped = set(), False

    async def adopt(self, vm: RunningVm) -> None:
        """Of a guest that stopped before this agent came. Raises QmpError."""
        self.stopped = True
        for block in await vm.qmp.execute("query-block"):
            names = (match for part in str(block.get("qdev", "")).split("/") if (match := _DEVICE.fullmatch(part)))
            if block.get("io-status") == "nospace" and (match := next(names, None)):
                self.slots.add(int(match[1]))
