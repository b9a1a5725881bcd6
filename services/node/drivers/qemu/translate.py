"""An address of a guest, followed to the machine's memory, on a running VM:

    guest-virtual ──(guest's page tables: the vCPU's, or a process's by the guest agent)──▶ guest-physical
    guest-physical ──(QEMU's tree of memory, gpa2hva)──▶ host-virtual ──(/proc/PID/pagemap)──▶ machine

Nothing is stopped meanwhile: the guest and the host may move the page between two steps, so an answer holds for that moment.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from proto.mapping import Space, Step, Translation, WhyNot
from services.node.drivers import DriverError
from services.node.drivers.memory import Untranslatable, canonical, not_canonical
from services.node.drivers.qemu import guest_pages, memory_tree, page_walk
from services.node.drivers.qemu.machine import RunningVm
from services.node.host import pages, process_memory

VCPUS_MAX = 32
"""how many vCPUs' page tables are tried; kernel addresses are in all of them"""
NEEDED = "run this node's agent as root, with CAP_SYS_ADMIN and CAP_SYS_PTRACE"
_GPA = re.compile(r"gpa: (0x[0-9a-f]+)")
_HVA = re.compile(r" is (0x[0-9a-f]+)")


async def translate(running: RunningVm, gva: int, pid: int) -> Translation:
    """Raises Untranslatable, DriverError."""
    if not canonical(gva):
        raise not_canonical(gva)
    way = _Way(running)
    first = await way.by_process(pid, gva) if pid else await way.by_vcpu(gva)
    gpa = way.gpa
    second = await way.guest_physical(gpa)
    third, small_kib = await way.host_virtual(gpa, (first, second))
    page = await asyncio.to_thread(_look, running.process.pid, third.address, small_kib, (first, second, third))
    steps: tuple[Step, ...] = (first, second, third)
    if page.machine >= 0:
        size = page.page_kib << 10
        begin = page.machine // size * size
        words = f"{page.page_kib} KiB page of the machine, cell {page.cell}"
        steps += (
            Step(
                space=Space.MACHINE,
                address=page.machine,
                region=words,
                first=begin,
                last=begin + size - 1,
                page_kib=page.page_kib,
            ),
        )
    return Translation(
        vm=running.record.vm, generation=running.record.generation, steps=steps, cell=page.cell, state=page.state
    )


def _look(pid: int, hva: int, small_kib: int, steps: tuple[Step, ...]) -> pages.HostPage:
    try:
        return pages.look(pid, hva, small_kib)
    except PermissionError as refused:
        raise Untranslatable(WhyNot.NEEDS_ROOT, str(refused), NEEDED, steps) from refused
    except OSError as error:
        raise Untranslatable(WhyNot.FAILED, f"process {pid}: {error}", "ask again", steps) from error


class _Way:
    """The steps of one question. gpa: what the first of them came to."""

    def __init__(self, running: RunningVm) -> None:
        self._running = running
        self.gpa = 0

    async def by_process(self, pid: int, gva: int) -> Step:
        found = await guest_pages.find(self._running.agent, pid, gva)
        self.gpa = found.gpa
        return _step(Space.GUEST_VIRTUAL, gva, found.words, found.first, found.last, found.page_kib)

    async def by_vcpu(self, gva: int) -> Step:
        vcpus = await self._running.ask("query-cpus-fast")
        for index in [int(cpu["cpu-index"]) for cpu in vcpus][:VCPUS_MAX]:
            match = _GPA.search(await self._human(f"gva2gpa {gva:#x}", index))
            if match is not None:
                self.gpa = int(match[1], 16)
                kib = await self._page_kib(gva, index)
                size = kib << 10 or 1
                words = f"the page tables of vCPU {index}"
                return _step(Space.GUEST_VIRTUAL, gva, words, gva // size * size, gva // size * size + size - 1, kib)
        text = f"no vCPU of {self._running.record.vm} has a page at {gva:#x} just now"
        raise Untranslatable(
            WhyNot.NOT_MAPPED, text, "for an address of a process name it by --pid, as the guest numbers it"
        )

    async def _page_kib(self, gva: int, vcpu: int) -> int:
        """By our own walk of the same tables; 0 where it does not come to the same address (the guest went on meanwhile)."""
        tables = page_walk.parse_registers(await self._human("info registers", vcpu))
        walked = None if tables is None else await page_walk.walk(self._entry, tables, gva)
        return walked.page_kib if walked is not None and walked.gpa == self.gpa else 0

    async def _entry(self, gpa: int) -> int | None:
        return page_walk.parse_dumped(await self._human(f"xp /1gx {gpa:#x}"))

    async def guest_physical(self, gpa: int) -> Step:
        view = memory_tree.parse(await self._human("info mtree"))
        found = memory_tree.at(view, gpa)
        if found is None or not found.is_memory:
            what = f"{found.name} ({found.kind})" if found else "nothing"
            raise Untranslatable(
                WhyNot.NOT_RAM,
                f"guest-physical {gpa:#x} is {what}: no memory lies behind it",
                "give an address of memory",
            )
        regions = memory_tree.regions(view, await self._running.ask("query-memdev"), False)
        for region in regions:
            last = region.guest_address + (region.size_mib << 20) - 1
            if region.guest_address <= gpa <= last:
                words = f"{region.name} ({region.backing}), block {found.name} + {found.offset + gpa - found.first:#x}"
                return _step(Space.GUEST_PHYSICAL, gpa, words, region.guest_address, last)
        return _step(Space.GUEST_PHYSICAL, gpa, f"{found.name} ({found.kind})", found.first, found.last)

    async def host_virtual(self, gpa: int, steps: tuple[Step, ...]) -> tuple[Step, int]:
        """And the page size of its mapping."""
        said = await self._human(f"gpa2hva {gpa:#x}")
        match = _HVA.search(said)
        if match is None:
            raise Untranslatable(WhyNot.NOT_RAM, said.strip()[:200] or f"{gpa:#x} is not memory", "ask again", steps)
        hva, pid = int(match[1], 16), self._running.process.pid
        try:
            mapped = await asyncio.to_thread(process_memory.mappings, pid)
        except PermissionError as error:
            text = f"the mappings of process {pid} may not be read: {error.strerror}"
            raise Untranslatable(WhyNot.NEEDS_ROOT, text, NEEDED, steps) from error
        except OSError as error:
            raise DriverError(f"process {pid}: {error}") from error
        found = next((m for m in mapped if m.first <= hva < m.end), None)
        if found is None:
            raise Untranslatable(WhyNot.FAILED, f"process {pid} has nothing at {hva:#x} any more", "ask again", steps)
        words = f"QEMU process {pid}, {found.mode} {found.name or 'anonymous'}"
        return _step(Space.HOST_VIRTUAL, hva, words, found.first, found.end - 1, found.page_kib), found.page_kib

    async def _human(self, line: str, vcpu: int | None = None) -> str:
        arguments: dict[str, Any] = {"command-line": line}
        if vcpu is not None:
            arguments["cpu-index"] = vcpu
        return str(await self._running.ask("human-monitor-command", arguments))


def _step(space: Space, address: int, region: str, first: int, last: int, page_kib: int = 0) -> Step:
    return Step(space=space, address=address, region=region, first=first, last=last, page_kib=page_kib)
