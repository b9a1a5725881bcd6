"""Data of a VM's recovered disks comes home: QEMU's stream jobs are paced by what its guest feels, and helped while it is idle.

    stream job    reads what is beneath, from the first byte to the last, and keeps it; cuts the link at the end; outlives the agent
    readers       while the guest is idle: fetch what is ahead of the job, several pieces at once (home.py)
    first         before all else: what the guest touched first the last time (reads.py), by one reader while the guest works; the
                  job creeps meanwhile. What it touches this time is noted for the next

A look every TICK_S goes through services/node/pacing.py. Where QEMU cannot serve the readers the job does it alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from proto.machine import Disk
from proto.node import CopyNow
from services.node.drivers import DriverError
from services.node.drivers.qemu import home
from services.node.drivers.qemu.chains import Chain
from services.node.drivers.qemu.home import Home
from services.node.drivers.qemu.look import device_of
from services.node.drivers.qemu.nbd_cache import NbdError
from services.node.drivers.qemu.reads import Reads
from services.node.pacing import MIB, SMOOTH_S, Pace, Phase, Seen, after, within, write_us
from services.node.spread import Spread

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

log = logging.getLogger(__name__)

TICK_S, SOON_S = 0.5, 0.15
"""between looks; SOON_S: while everything is taken, for the guest's first request is to be seen soon, and where much changes"""
SOON = frozenset({Phase.FIRST, Phase.RAMPING, Phase.PROBING, Phase.IDLE})
FIRST_S_MAX = 60.0
"""for what comes first: from a storage that is slower than that the rest has to come, too"""
FIRST_SPEED = 256 * 1024
"""of the job meanwhile, bytes a second: what is slow is to have room for what is wanted"""
QUIET_S = 1.0
"""without a request, before a guest counts as idle meanwhile: one that waits for a slow storage makes none either"""


class Homing:
    """One VM's. `see_to` is said as often as one likes."""

    def __init__(self, vm: RunningVm) -> None:
        self._vm = vm
        self._homes: dict[int, Home] = {}
        self._exporting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._readers: asyncio.Task[None] | None = None
        self._first: dict[int, asyncio.Task[None]] = {}
        self._noting: asyncio.Task[None] | None = None
        self._alone: set[str] = set()
        """jobs that no readers can help"""
        self._pace = Pace()
        self._lately: tuple[Seen, ...] = ()
        """whatever the pace makes of it"""
        self._quiet_s = 0.0
        self._guest: dict[str, int] = {}
        self._spread = Spread()
        self._done = 0
        self._at = 0.0

    def see_to(self, disk: Disk, chain: Chain, reads: Path) -> None:
        """A job copies what this disk stands on: pace it until it has ended, and tell how far it is. reads: where it is kept what
        its guest touches first."""
        if disk.slot not in self._homes and len(chain.nodes) > 1:
            self._homes[disk.slot] = Home(disk, chain.nodes[0], chain.nodes[1], Reads(disk, reads))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def flushed(self, slot: int, node: str) -> None:
        """As home.flushed."""
        async with self._exporting:  # one NBD server is there for all
            await home.flushed(self._vm, slot, node)

    async def over(self, slot: int) -> None:
        """The disk stands on no backup any more, or never did: what was made for that goes, also what an earlier agent made. Raises
        DriverError."""
        async with self._exporting:
            if (gone := self._homes.pop(slot, None)) is not None:
                self._still()
                if (first := self._first.pop(slot, None)) is not None:
                    first.cancel()
                await gone.close()
            if home.served(self._vm):
                await home.cleared(self._vm, slot)
                if not self._homes:
                    await home.unserved(self._vm)

    def copies(self) -> tuple[CopyNow, ...]:
        """What goes on now."""
        now, usual = write_us(self._lately), round(self._pace.normal.write_ns / 1000)
        return tuple(
            CopyNow(
                self._vm.record.vm, "home", one.disk.name, one.done_bytes // MIB, -(-one.all_bytes // MIB), write_us=now,
                normal_us=usual, first_mib=-(-one.reads.map.bytes // MIB) if one.reads.used else 0,
            )
            for _, one in sorted(self._homes.items())
        )  # fmt: skip

    def close(self) -> None:
        """Let go; the jobs go on as they are."""
        if self._task is not None:
            self._task.cancel()
        self._let_go()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._pace = replace(self._vm.record.pace or Pace(), phase=Phase.FIRST, since_s=0.0, quiet_s=0.0, lately=())
        self._guest, self._lately, self._at, self._alone = {}, (), time.monotonic(), set()
        going = True
        try:
            while going and not self._vm.process.ended.is_set():
                try:
                    going = await self._look()
                except (DriverError, OSError) as error:  # its monitor is lost for a while; the jobs go on as they are
                    log.debug("%s: its copies cannot be looked at: %s", self._vm.record.vm, error)
                await asyncio.sleep(SOON_S if self._pace.phase in SOON else TICK_S)
        finally:
            self._let_go()

    async def _look(self) -> bool:
        """Whether any job goes on. Raises DriverError, OSError."""
        for one in list(self._homes.values()):
            await self._opened(one)
        jobs = {str(job["device"]): job for job in await self._vm.do("query-block-jobs")}
        going = [one for one in list(self._homes.values()) if one.job in jobs]
        for one in going:
            with suppress(NbdError):  # it was let go of meanwhile
                await one.walked(int(jobs[one.job]["offset"]), int(jobs[one.job]["len"]))
        before, first = self._pace, self._read_first(going)
        if (seen := await self._seen()) is not None:
            self._pace = before if first else after(before, seen)  # what is normal cannot be learnt beside it
            self._lately = within((*self._lately, seen), SMOOTH_S)
            self._quiet_s = self._quiet_s + seen.seconds if seen.idle else 0.0
            for one in going:
                one.alone = first and self._quiet_s < QUIET_S
        if self._pace.normal != before.normal:
            await self._vm.remember(pace=replace(self._pace, lately=()))
        for one in going:
            limit = one.capped(-(-(FIRST_SPEED if first else self._pace.limit) // len(going)))
            if int(jobs[one.job]["speed"]) != limit:
                await self._vm.fitting.away("block-job-set-speed", {"device": one.job, "speed": limit})
        self._read_ahead(going)
        return bool(going)

    async def _opened(self, one: Home) -> None:
        async with self._exporting:
            if one.counted or one.job in self._alone or self._homes.get(one.disk.slot) is not one:
                return
            try:
                await one.open(self._vm)
            except (DriverError, OSError) as error:
                self._alone.add(one.job)
                log.warning("%s: %s comes home by one reader only: %s", self._vm.record.vm, one.disk.name, error)

    async def _seen(self) -> Seen | None:
        """Since the last look; None: this is the first."""
        now, (guest, spread) = time.monotonic(), await self._counts()
        done = sum(one.done_bytes for one in self._homes.values())
        before, self._guest = self._guest, guest
        lately, self._spread = spread.since(self._spread), spread
        seconds, self._at = now - self._at, now
        copied, self._done = max(0, done - self._done), done
        if not before:
            return None
        by = {word: max(0, guest[word] - before[word]) for word in guest}
        ops = by["rd_operations"] + by["wr_operations"] + by["flush_operations"]
        return Seen(
            seconds, ops, by["wr_operations"], by["flush_operations"], by["wr_total_time_ns"], by["flush_total_time_ns"], copied,
            by["rd_total_time_ns"], lately,
        )  # fmt: skip

    async def _counts(self) -> tuple[dict[str, int], Spread]:
        """Of all its disks together; and of the writes of those that come home."""
        words = [f"{kind}_{what}" for kind in ("rd", "wr", "flush") for what in ("operations", "total_time_ns")]
        blocks: list[dict[str, Any]] = await self._vm.do("query-blockstats")
        mine = {id: block["stats"] for block in blocks if (id := device_of(block.get("qdev") or "")).startswith("disk")}
        spread = Spread()
        for slot in sorted(self._homes):
            found = mine.get(f"disk{slot}-dev", {}).get("wr_latency_histogram", {})
            spread = spread.plus(Spread(tuple(map(int, found.get("boundaries", ()))), tuple(map(int, found.get("bins", ())))))
        return {word: sum(int(stats[word]) for stats in mine.values()) for word in words}, spread

    def _read_ahead(self, going: list[Home]) -> None:
        """Readers are there exactly while everything may be taken."""
        if not self._pace.everything or not going:
            self._still()
        elif (self._readers is None or self._readers.done()) and any(one.counted and one.left_bytes for one in going):
            free = [one for one in going if one.job not in self._alone and not one.disk.home_mibps]
            self._readers = asyncio.create_task(self._read(free))

    def _read_first(self, going: list[Home]) -> bool:
        """Whether what comes first is still fetched; begun once for each disk. Also sees to it that what is touched is noted."""
        for one in going:
            if one.counted and one.reads.map.rounds and not one.disk.home_mibps and one.disk.slot not in self._first:
                self._first[one.disk.slot] = asyncio.create_task(self._ahead(one))
        if (self._noting is None or self._noting.done()) and any(one.counted and one.reads.records for one in going):
            self._noting = asyncio.create_task(self._note())
        return any(not task.done() for task in self._first.values())

    async def _ahead(self, one: Home) -> None:
        try:
            async with asyncio.timeout(FIRST_S_MAX):
                await one.read_first()
        except* TimeoutError:
            log.info("%s: what comes first of %s did not all come within %g s", self._vm.record.vm, one.disk.name, FIRST_S_MAX)
        except* DriverError as failed:  # as in _read
            log.info("%s: %s comes home in the job's order: %s", self._vm.record.vm, one.disk.name, failed.exceptions[0])

    async def _note(self) -> None:
        """What is touched, at the end of each round."""
        while noted := [one for one in self._homes.values() if one.counted and one.reads.records]:
            await asyncio.sleep(min(one.reads.due_s for one in noted))
            for one in [one for one in noted if one.reads.due_s == 0]:
                try:
                    await one.touched(self._vm)
                except DriverError as error:
                    one.reads.stop()
                    log.debug("%s: what is read of %s is not known: %s", self._vm.record.vm, one.disk.name, error)

    async def _read(self, going: list[Home]) -> None:
        for one in going:
            try:
                await one.read_ahead()
            except* DriverError as failed:  # the job meets the same, and tells it; or the process has ended
                self._alone.add(one.job)
                log.info("%s: %s comes home by one reader only: %s", self._vm.record.vm, one.disk.name, failed.exceptions[0])

    def _still(self) -> None:
        if self._readers is not None:
            self._readers.cancel()
            self._readers = None

    def _let_go(self) -> None:
        """Of all that goes on beside the looks."""
        self._still()
        for task in (*self._first.values(), *([self._noting] if self._noting is not None else ())):
            task.cancel()
        self._first, self._noting = {}, None
