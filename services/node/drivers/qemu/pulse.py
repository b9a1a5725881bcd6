"""Whether a guest lives: what QEMU tells of it by itself, and what a few short questions show."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from services.node.drivers import DriverError
from services.node.drivers.qemu.devices import device_id
from services.node.drivers.qemu.fitting import PERIPHERAL
from services.node.drivers.qemu.qmp import QmpEvent
from services.node.drivers.qemu.tap_counts import tap_counts
from services.node.drivers.vitals import VitalCount
from services.node.host.threads import times

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

DUMP_S_MAX = 900.0
"""a guest that dumps its own memory after a panic (kdump) is given this long"""
SENDS = 1
"""a virtio card's queue of what its guest sends, where it has one pair of queues"""
_NETDEV = re.compile(r"(nic[0-9]+): index=[0-9]+,type=")


class Pulse:
    """Of one process. ran_out: how often the watchdog device has run out since its guest began; began: how often that began, or
    went on."""

    def __init__(self) -> None:
        self.ran_out = 0
        self.began = 1
        self._dumps_until = 0.0

    def hear(self, event: QmpEvent) -> None:
        match event.name:
            case "WATCHDOG":
                self.ran_out += 1
            case "RESET":
                self.ran_out, self._dumps_until = 0, 0.0
                self.began += 1
            case "RESUME":
                self.began += 1
            case "GUEST_CRASHLOADED":
                self._dumps_until = asyncio.get_running_loop().time() + DUMP_S_MAX

    @property
    def dumps(self) -> bool:
        """It panicked, and has a kernel loaded that saves its memory and starts it again by itself."""
        return asyncio.get_running_loop().time() < self._dumps_until


async def count(vm: RunningVm) -> VitalCount:
    """Raises DriverError."""
    channel = any(c["label"] == "agent" and c.get("frontend-open") for c in await vm.do("query-chardev"))
    disks = [mark for block in await vm.do("query-blockstats") for mark in _done(block)]
    sent = await _sent(vm)
    threads = await vm.known_threads()
    record = vm.record
    return VitalCount(
        record.vm, record.generation, vm.process.pid, vm.status,
        channel=channel,
        marks=(*disks, *sent),
        counted=bool(disks or sent),
        vcpus=tuple(times(vm.process.pid, thread) for thread in threads),
        ran_out=vm.pulse.ran_out,
        began=vm.pulse.began,
        hold=_hold(vm),
    )  # fmt: skip


def _done(block: Mapping[str, Any]) -> list[int]:
    """Of a disk's requests; a flash chip and an empty drive have none."""
    if not block.get("qdev"):
        return []
    stats = block["stats"]
    return [int(stats[f"{kind}_operations"]) for kind in ("rd", "wr", "flush", "unmap") if f"{kind}_operations" in stats]


async def _sent(vm: RunningVm) -> list[int]:
    """What its guest has sent by each NIC, as the host counts at the tap, else as far as the queue has got. A card of which neither
    is known is left out."""
    told = str(await vm.do("human-monitor-command", {"command-line": "info network"}))
    out = {id: counts[1].total for id, counts in tap_counts(told, vm.process.pid).items()}
    for nic in _NETDEV.findall(told):
        if (id := device_id(nic)) in out:
            continue
        queue = {"path": f"{PERIPHERAL}/{id}/virtio-backend", "queue": SENDS}
        try:
            out[id] = int((await vm.do("x-query-virtio-queue-status", queue))["used-idx"])
        except (DriverError, KeyError):
            continue
    return [out[id] for id in sorted(out)]


def _hold(vm: RunningVm) -> str:
    if vm.record.frozen:
        return "its file systems stand still"
    if vm.still or vm.record.plugging:
        return "a vCPU is being plugged"
    if vm.mover.sending:
        return "it is being sent"
    return "it dumps its memory after a panic" if vm.pulse.dumps else ""
