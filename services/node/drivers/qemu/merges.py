"""Layers of a running VM that are being merged upwards: QEMU's stream jobs, named mergeN, where N is the disk's slot. They
outlive the agent; the next one finds those that go on, and sees from the chain which were done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from services.node.drivers import MachineChanged
from services.node.drivers.qemu.qmp import QmpEvent

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

PREFIX = "merge"


class Merges:
    """jobs: by name, until somebody has heard how each ended ("": well)."""

    def __init__(self, vm: RunningVm) -> None:
        self._vm = vm
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._waiting: set[str] = set()

    def goes_on(self, job: str) -> bool:
        return job in self._jobs

    async def begin(self, job: str, words: dict[str, Any]) -> None:
        """Raises DriverError; then it is not begun."""
        self._known(job)
        try:
            await self._vm.do("block-stream", words)
        except BaseException:
            del self._jobs[job]
            raise

    async def ended(self, job: str, within_s: float) -> str | None:
        """How it ended; None: it goes on."""
        self._waiting.add(job)
        try:
            async with asyncio.timeout(within_s):
                said = await asyncio.shield(self._jobs[job])
        except TimeoutError:
            return None
        finally:
            self._waiting.discard(job)
        del self._jobs[job]
        return said

    async def adopt(self) -> None:
        """Those that an earlier agent began, and those that ended while the monitor was away. Raises QmpError."""
        found = await self._vm.qmp.execute("query-block-jobs")
        going = {str(job["device"]) for job in found if str(job["device"]).startswith(PREFIX)}
        for job in going:
            self._known(job)
        for job, future in self._jobs.items():
            if job not in going and not future.done():
                future.set_result("")

    def hear(self, event: QmpEvent) -> bool:
        """Whether the event belongs to a merge. One that nobody waits for is told."""
        job = str(event.data.get("device", ""))
        if event.name not in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED") or job not in self._jobs:
            return False
        said = "it was cancelled" if event.name == "BLOCK_JOB_CANCELLED" else str(event.data.get("error") or "")
        if not self._jobs[job].done():
            self._jobs[job].set_result(f"a layer was not merged: {said}"[:300] if said else "")
        if job not in self._waiting:
            record = self._vm.record
            self._vm.tell(MachineChanged(record.vm, record.generation, self._vm.status, stirred=True))
        return True

    def _known(self, job: str) -> None:
        if job not in self._jobs:
            self._jobs[job] = asyncio.get_running_loop().create_future()
