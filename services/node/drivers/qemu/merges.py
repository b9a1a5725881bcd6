"""Layers of a running VM that are being merged upwards: QEMU's stream jobs, named mergeN, where N is the disk's slot. They
outlive the agent; the next one finds those that go on, and sees from the chain which were done.

    copying ──all is copied──▶ copied ──its file is durable──▶ finalized: the header is changed ──▶ ended

A job of QEMU's own changes the header at once, while the tables that say where the copies lie may still be in its memory alone: a
process that died then left a file that stands on nothing and reads as zeros. So a job waits, and the agent has the file written
out before it lets the header be changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from services.node.drivers import MachineChanged
from services.node.drivers.qemu.qmp import QmpEvent

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

PREFIX = "merge"
WAITS = {"auto-finalize": False}
"""words of a block-stream: once all is copied it waits for `job-finalize`"""


class _Job:
    """ended: how ("": well); turned: all is copied, or it has ended."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.turned = asyncio.Event()

    def end(self, said: str) -> None:
        if not self.ended.done():
            self.ended.set_result(said)
        self.turned.set()


class Merges:
    """jobs: by name, until somebody has heard how each ended."""

    def __init__(self, vm: RunningVm) -> None:
        self._vm = vm
        self._jobs: dict[str, _Job] = {}
        self._waiting: set[str] = set()

    def goes_on(self, job: str) -> bool:
        return job in self._jobs

    async def begin(self, job: str, words: dict[str, Any]) -> None:
        """Raises DriverError; then it is not begun."""
        self._known(job)
        try:
            await self._vm.do("block-stream", words | WAITS)
        except BaseException:
            del self._jobs[job]
            raise

    async def ended(self, job: str, within_s: float, durable: Callable[[], Awaitable[None]]) -> str | None:
        """How it ended; None: it goes on. durable: has the file written out into which it copies. Raises DriverError, OSError where
        that failed: then the job waits, and what it copied from is still stood on."""
        self._waiting.add(job)
        one = self._jobs[job]
        try:
            async with asyncio.timeout(within_s):
                await one.turned.wait()
            if not one.ended.done():
                await durable()
                await self._vm.fitting.away("job-finalize", {"id": job})  # said twice, it is refused
            async with asyncio.timeout(within_s):
                said = await asyncio.shield(one.ended)
        except TimeoutError:
            return None
        finally:
            self._waiting.discard(job)
        del self._jobs[job]
        return said

    async def adopt(self) -> None:
        """Those that an earlier agent began, and those that ended while the monitor was away. Raises QmpError."""
        found = await self._vm.qmp.execute("query-block-jobs")
        going = {str(job["device"]): str(job["status"]) for job in found if str(job["device"]).startswith(PREFIX)}
        for job, status in going.items():
            if status == "pending":
                self._known(job).turned.set()
            else:
                self._known(job)
        for job, one in self._jobs.items():
            if job not in going:
                one.end("")

    def hear(self, event: QmpEvent) -> bool:
        """Whether the event belongs to a merge. One that nobody waits for is told."""
        copied = event.name == "BLOCK_JOB_PENDING"
        job = str(event.data.get("id" if copied else "device", ""))
        if job not in self._jobs or not (copied or event.name in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")):
            return False
        if copied:
            self._jobs[job].turned.set()
        else:
            said = "it was cancelled" if event.name == "BLOCK_JOB_CANCELLED" else str(event.data.get("error") or "")
            self._jobs[job].end(f"a layer was not merged: {said}"[:300] if said else "")
        if job not in self._waiting:
            record = self._vm.record
            self._vm.tell(MachineChanged(record.vm, record.generation, self._vm.status, stirred=True))
        return True

    def _known(self, job: str) -> _Job:
        return self._jobs.setdefault(job, _Job())
