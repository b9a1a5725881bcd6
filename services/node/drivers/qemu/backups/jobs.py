"""QEMU's jobs of a backup, by name: how each ended, and whatever of them is left in a process. Each job and its target's node are
named after the disk's slot, backupN, and so are the nodes below it (targets.py)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from services.node.drivers import DriverError
from services.node.drivers.qemu.keyring import known
from services.node.drivers.qemu.qmp import QmpEvent

PREFIX = "backup"
"""also what the open files are said to be for"""
KEY = "backup-key-"
"""how the name of a key begins that a QEMU knows while it opens files by it"""
ENDS_S_MAX = 30.0
"""a job that was cancelled ends after the request that it is in"""
_JOB = re.compile(r"backup[0-9]+")
_NODE = re.compile(r"(backup[0-9]+)(-packed|-own|-file|-spare|-map|-void)?")
_ORDER = (None, "-packed", "-own", "-file", "-spare", "-map", "-void")
"""each before what it stands on"""


class Blocks(Protocol):
    """A QEMU that has block nodes: a running VM's, or one without a machine."""

    async def do(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Raises DriverError."""
        ...

    async def give(self, name: str, fd: int) -> None:
        """As Qmp.give. Raises DriverError."""
        ...

    async def give_set(self, fd: int, opaque: str) -> int:
        """As Qmp.give_set. Raises DriverError."""
        ...


class Jobs:
    """Of one process. reason: why all of them are to end, where somebody said so. forgotten: as long as there are none."""

    def __init__(self) -> None:
        self.reason = ""
        self.forgotten = asyncio.Event()
        self._ends: dict[str, asyncio.Future[str]] = {}
        """how it ended, or that its target failed"""
        self._over: dict[str, asyncio.Event] = {}
        self._left: dict[str, tuple[int, int]] = {}
        """(done, all) in bytes of those that have ended"""

    @property
    def going(self) -> bool:
        return bool(self._ends)

    def slots(self) -> set[int]:
        return {int(job.removeprefix(PREFIX)) for job in self._ends}

    def expect(self, jobs: Iterable[str]) -> None:
        """From before they are begun until `forget`."""
        self.reason, self._left, self._over = "", {}, {}
        self.forgotten.clear()
        self._ends = {job: asyncio.get_running_loop().create_future() for job in jobs}

    def forget(self) -> None:
        """Nothing of them is left in the process."""
        self._ends, self._left = {}, {}
        self.forgotten.set()

    def hear(self, event: QmpEvent) -> bool:
        """Whether the event belongs to one of them."""
        if event.name == "QUORUM_REPORT_BAD":
            return self._hear_target(event)
        job = str(event.data.get("device", ""))
        if event.name not in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED") or not _JOB.fullmatch(job):
            return False
        self._over.setdefault(job, asyncio.Event()).set()
        if (end := self._ends.get(job)) is not None and not end.done():
            self._left[job] = int(event.data.get("offset", 0)), int(event.data.get("len", 0))
            said = "it was cancelled" if event.name == "BLOCK_JOB_CANCELLED" else str(event.data.get("error") or "")
            end.set_result(said)
        return True

    def _hear_target(self, event: QmpEvent) -> bool:
        """What was to be written to a target was not: the job goes on, and nothing comes of it."""
        found = _NODE.fullmatch(str(event.data.get("node-name", "")))
        end = self._ends.get(found[1]) if found is not None else None
        if end is not None and not end.done() and event.data.get("error"):
            end.set_result(str(event.data["error"]))
        return found is not None

    def end(self, why: str) -> None:
        """None of them goes on any more: nothing comes of it."""
        self.reason = self.reason or why
        for job, end in self._ends.items():
            self._over.setdefault(job, asyncio.Event()).set()
            if not end.done():
                end.set_result(why)

    async def turned(self) -> None:
        """Until one more has ended, if any goes on."""
        if waiting := [end for end in self._ends.values() if not end.done()]:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def ended(self) -> dict[str, str]:
        """Those that have, and how ("": well)."""
        return {job: end.result() for job, end in self._ends.items() if end.done()}

    def unended(self) -> list[str]:
        return [job for job, end in self._ends.items() if not end.done()]

    async def progress(self, blocks: Blocks) -> tuple[int, int]:
        """(done, all) in bytes. Raises DriverError."""
        now = dict(self._left)
        for job in await blocks.do("query-block-jobs") if self._ends else ():
            if str(job["device"]) in self._ends:
                now[str(job["device"])] = int(job["offset"]), int(job["len"])
        return sum(done for done, _ in now.values()), sum(all for _, all in now.values())

    async def cancel(self, blocks: Blocks) -> None:
        """All that go on in the process, those of an earlier agent too; until they have ended. Raises DriverError."""
        names = await _going(blocks)
        for job in names:
            self._over.setdefault(job, asyncio.Event())
            await _tried(blocks, "block-job-cancel", {"device": job, "force": True})
        try:
            async with asyncio.timeout(ENDS_S_MAX):
                for job in names:
                    await self._over[job].wait()
        except TimeoutError:
            raise DriverError(f"a job of a backup has not ended {ENDS_S_MAX:g} s after it was cancelled") from None
        self.end("it was cancelled")

    async def clear(self, blocks: Blocks) -> None:
        """Nothing of a backup is left in the process, whoever began it. Raises DriverError."""
        await self.cancel(blocks)
        await sweep(blocks)

    async def adopt(self, execute: Callable[[str], Awaitable[Any]]) -> None:
        """The monitor was away: those that ended meanwhile have ended, nobody knows how. Raises QmpError."""
        if not self._ends:
            return
        names = [str(job["device"]) for job in await execute("query-block-jobs")]
        for job, end in self._ends.items():
            if job not in names:
                self._over.setdefault(job, asyncio.Event()).set()
            if job not in names and not end.done():
                end.set_result("it ended while its monitor was away")


async def _going(blocks: Blocks) -> list[str]:
    return [str(job["device"]) for job in await blocks.do("query-block-jobs") if _JOB.fullmatch(str(job["device"]))]


async def sweep(blocks: Blocks) -> None:
    """Nodes and open files that a backup had are taken away: its jobs have ended. Raises DriverError."""
    named = [str(node["node-name"]) for node in await blocks.do("query-named-block-nodes", {"flat": True})]
    mine = [found for name in named if (found := _NODE.fullmatch(name))]
    for found in sorted(mine, key=lambda found: _ORDER.index(found[2])):
        await _tried(blocks, "blockdev-del", {"node-name": found[0]})
    for each in await blocks.do("query-fdsets"):
        if any(fd.get("opaque") == PREFIX for fd in each["fds"]):
            await _tried(blocks, "remove-fd", {"fdset-id": each["fdset-id"]})
    for key in await known(blocks, KEY):
        await _tried(blocks, "object-del", {"id": key})


async def _tried(blocks: Blocks, command: str, words: dict[str, Any]) -> None:
    """What is to go may be gone already. Raises DriverError where QEMU is."""
    try:
        await blocks.do(command, words)
    except DriverError:
        await blocks.do("query-version")
