"""Disks that go along with a guest, for its target has a pool of its own: QEMU's mirror jobs onto what the target exports by NBD.

    begin ──▶ copying ──▶ ready (what is written since follows) ── settle, while the guest stands still ──▶ equal, let go of
                 └ failed: the guest runs on here, with its own disks

What the guest writes is copied behind its back (`background`), and the rest of it between its last instruction here and the end of
the migration (QEMU pauses there, `pre-switchover`): were that more than can be copied in a moment, or had a mirror failed by then,
the migration is given up. Writing to both sides at once (`write-blocking`) would catch up with any guest, but QEMU 7.2 then
corrupts its memory, and so ends the guest, when the target's process dies (one death in seven, where this was tried).
Each job and each target's node is named copyN, where N is the disk's slot.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from proto.machine import Disk, DiskFormat
from services.node.drivers import CannotMove, Move
from services.node.drivers.qemu import moving
from services.node.drivers.qemu.chains import chains
from services.node.drivers.qemu.qmp import QmpEvent

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

PREFIX = "copy"
SETTLE_S_MAX, DROP_S_MAX = 5.0, 20.0
"""how long the last writes may take to be on both sides; the guest stands still meanwhile"""


class Mirrors:
    """jobs: by name: `copying`, `ready`, `done`, or why it failed."""

    def __init__(self, vm: RunningVm) -> None:
        self.jobs: dict[str, str] = {}
        self._vm = vm
        self._turned = asyncio.Event()

    async def begin(self, address: str, move: Move, tls: str) -> None:
        """Raises CannotMove, DriverError; then nothing goes on."""
        await self.drop()
        try:
            for disk in move.disks:
                await self._begin(address, disk, tls, disk.name in move.whole)
        except BaseException:
            await self.drop()
            raise

    async def _begin(self, address: str, disk: Disk, tls: str, whole: bool) -> None:
        vm, name = self._vm, f"{PREFIX}{disk.slot}"
        sock = await moving.connected(address)
        try:
            sock.setblocking(True)
            await vm.give(name, sock.fileno())
        finally:
            sock.close()
        there: dict[str, Any] = {"driver": "nbd", "node-name": name, "export": f"disk{disk.slot}"}
        there |= {"server": {"type": "fd", "str": name}} | ({"tls-creds": tls} if tls else {})
        await vm.do("blockdev-add", there)
        self.jobs[name] = "copying"
        over = disk.format is DiskFormat.QCOW2 and disk.image and not whole
        how = {"sync": "top" if over else "full", "copy-mode": "background"}
        fails = {"on-source-error": "report", "on-target-error": "report"}
        top = (await chains(vm))[disk.slot].nodes[0]
        await vm.do("blockdev-mirror", {"job-id": name, "device": top, "target": name, **how, **fails})

    async def ready(self) -> None:
        """Returns once all are. Raises CannotMove."""
        await self._until("ready")

    async def settle(self) -> None:
        """The guest stands still: bring both sides to be equal, and let go of the target's. Raises CannotMove, DriverError."""
        await self._until("ready")
        for name in self.jobs:
            await self._vm.do("block-job-cancel", {"device": name, "force": False})
        try:
            async with asyncio.timeout(SETTLE_S_MAX):
                await self._until("done")
        except TimeoutError:
            raise CannotMove(f"the last writes were not on both sides within {SETTLE_S_MAX:g} s") from None
        for name in self.jobs:
            await self._vm.do("blockdev-del", {"node-name": name})
        self.jobs.clear()

    async def drop(self) -> None:
        """End all that goes on, also what an earlier agent began; the guest's own disks are as they are."""
        vm = self._vm
        found = await vm.do("query-block-jobs")
        self.jobs |= {str(job["device"]): "copying" for job in found if str(job["device"]).startswith(PREFIX)}
        for name in (str(job["device"]) for job in found):
            if name in self.jobs:
                await vm.do("block-job-cancel", {"device": name, "force": True})
        try:
            async with asyncio.timeout(DROP_S_MAX):
                while True:
                    self._turned.clear()
                    if not any(str(job["device"]) in self.jobs for job in await vm.do("query-block-jobs")):
                        break
                    await self._turned.wait()
        except TimeoutError:
            raise CannotMove(f"a disk of {vm.record.vm} is still being copied after {DROP_S_MAX:g} s") from None
        nodes = {str(node["node-name"]) for node in await vm.do("query-named-block-nodes", {"flat": True})}
        for name in sorted(n for n in nodes if n.startswith(PREFIX)):
            await vm.do("blockdev-del", {"node-name": name})
        self.jobs.clear()

    async def adopt(self) -> None:
        """Those that an earlier agent began. Raises QmpError."""
        found = await self._vm.qmp.execute("query-block-jobs")
        mine = [job for job in found if str(job["device"]).startswith(PREFIX)]
        self.jobs = {str(job["device"]): "ready" if job["ready"] else "copying" for job in mine}

    async def progress(self) -> tuple[int, int]:
        """(copied, all) in MiB, of what is known to be copied by now."""
        jobs = [job for job in await self._vm.do("query-block-jobs") if str(job["device"]) in self.jobs]
        return tuple(sum(int(job[word]) for job in jobs) >> 20 for word in ("offset", "len"))  # type: ignore[return-value]

    def hear(self, event: QmpEvent) -> bool:
        """Whether the event belongs to a mirror."""
        name = str(event.data.get("device", ""))
        if not event.name.startswith("BLOCK_JOB_") or name not in self.jobs:
            return False
        match event.name:
            case "BLOCK_JOB_READY":
                self.jobs[name] = "ready"
            case "BLOCK_JOB_COMPLETED" if not event.data.get("error"):
                self.jobs[name] = "done"
            case "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED":
                self.jobs[name] = f"copying a disk ended: {event.data.get('error') or 'it was cancelled'}"[:300]
        self._turned.set()
        return True

    async def _until(self, wanted: str) -> None:
        while any(state != wanted for state in self.jobs.values()):
            for state in self.jobs.values():
                if state not in ("copying", "ready", wanted):
                    raise CannotMove("a disk was let go of too early" if state == "done" else state)
            self._turned.clear()
            await self._turned.wait()


