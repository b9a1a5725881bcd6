"""The memory of this node's QEMU processes: keeps the DriverMemory contract with /proc, the monitor and the guest's balloon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from libs.common.clock import SystemClock
from proto.mapping import CellUse, GroupUse, GuestMemory, MemoryUse, Region, Translation
from proto.memory import Area
from proto.node import VmMemory
from services.node.drivers import DriverError
from services.node.drivers.qemu import ballooning, memory_tree
from services.node.drivers.qemu.fleet import Fleet
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.machine import RunningVm
from services.node.drivers.qemu.translate import translate
from services.node.host import areas as areas_of_host
from services.node.host import cgroup_class, cgroup_memory, process_memory, swap
from services.node.host.memory_now import MemoryNow, ksm_on, memory_now, part_of
from services.node.host.process_memory import Mapping
from services.node.memory_plan import Balloon
from services.node.swapping import own_device

BALLOON = "/machine/peripheral/balloon"
FIGURES_S_MAX = 0.5
POLL_S = 1
"""how often QEMU asks the guest's balloon driver for its figures"""
NOT_SAID = 2**64 - 1
TRACKING = ("setup", "active", "postcopy-active", "device")
"""states of a migration in which writes to memory are recorded"""


class QemuMemory:
    def __init__(self, fleet: Fleet, part_mib: int = 0) -> None:
        """part_mib: what this node may use of its host's memory; 0: all of it."""
        self._fleet = fleet
        self._part_mib = part_mib
        self._polled: dict[str, int] = {}
        """VM -> the process whose balloon figures were asked for"""

    def vms(self) -> dict[str, int]:
        return {vm: r.record.generation for vm, r in self._fleet.vms.items() if r.status != "prelaunch"}

    async def regions(self, vm: str) -> tuple[Region, ...]:
        running = self._fleet.find(vm)
        view = await running.ask("human-monitor-command", {"command-line": "info mtree"})
        backends = await running.ask("query-memdev")
        migration = await running.ask("query-migrate")
        found = memory_tree.regions(memory_tree.parse(str(view)), backends, migration.get("status") in TRACKING)
        return _given(found, await running.ask("query-memory-devices"))

    async def translate(self, vm: str, gva: int, pid: int) -> Translation:
        return await translate(self._fleet.find(vm), gva, pid)

    async def host(self) -> MemoryNow:
        now = await asyncio.to_thread(_now, self._fleet.host)
        if self._part_mib:
            pids = [os.getpid(), *(r.process.pid for r in self._fleet.vms.values())]
            now = part_of(now, self._part_mib, await asyncio.to_thread(_resident_mib, pids))
        left = await asyncio.to_thread(areas_of_host.left_mib, self._fleet.host.groups)
        return now if left is None else msgspec.structs.replace(now, available_mib=min(now.available_mib, left))

    async def figures(self) -> tuple[VmMemory, ...]:
        found = await asyncio.gather(*(self._figures(vm, r) for vm, r in sorted(self._fleet.vms.items())))
        return tuple(figures for figures in found if figures is not None)

    async def _figures(self, vm: str, running: RunningVm) -> VmMemory | None:
        """None: it has ended meanwhile. A mute monitor costs FIGURES_S_MAX and what only it knows."""
        try:
            now = process_memory.quick(running.process.pid)
        except OSError:
            return None
        balloon_mib = available_mib = -1
        try:
            async with asyncio.timeout(FIGURES_S_MAX):
                if running.heard:
                    balloon_mib = await self._balloon_mib(running)
                    guest = await self.guest(running)
                    if guest is not None and guest.available_kib >= 0:
                        available_mib = guest.available_kib >> 10
        except TimeoutError:
            pass
        return VmMemory(
            vm, running.record.generation, now.resident_kib >> 10, now.swapped_kib >> 10, balloon_mib, available_mib
        )

    async def balloons(self) -> dict[str, Balloon]:
        running = [r for r in self._fleet.vms.values() if r.status != "prelaunch"]
        found = await asyncio.gather(*(self._balloon(r) for r in running))
        return {r.record.vm: b for r, b in zip(running, found, strict=True) if b is not None}

    async def _balloon(self, running: RunningVm) -> Balloon | None:
        """None: it has ended, or does not say how much memory it has."""
        try:
            async with asyncio.timeout(FIGURES_S_MAX):
                if not running.heard:
                    return None
                return await ballooning.balloon(running)
        except (TimeoutError, DriverError):
            return None

    async def inflate(self, vm: str, mib: int) -> None:
        await ballooning.come_to(self._fleet.find(vm), mib)

    async def limit(self, vm: str, high_mib: int, swap_max_mib: int, merge: bool) -> list[str]:
        running = self._fleet.find(vm)
        async with running.grouping:
            record = running.record
            faults = await asyncio.to_thread(cgroup_memory.set_vm, record.cgroup, high_mib, swap_max_mib)
            faults += await asyncio.to_thread(cgroup_class.follow, record.former, swap_max_mib)
        if merge and not await asyncio.to_thread(ksm_on):
            faults.append("KSM cannot be switched on: only root may write /sys/kernel/mm/ksm/run")
        for backend in await running.ask("query-memdev"):
            if backend.get("merge") != merge:
                arguments = {"path": f"/objects/{backend['id']}", "property": "merge", "value": merge}
                await running.ask("qom-set", arguments)
        return faults

    async def divide(self, areas: tuple[Area, ...]) -> list[str]:
        host = self._fleet.host
        return await asyncio.to_thread(areas_of_host.apply, host.groups, areas, host.control_plane)

    def shelter(self) -> bool:
        areas_of_host.protect_agent()
        return areas_of_host.shelter(self._fleet.host.groups)

    async def use(self, vm: str) -> MemoryUse:
        running = self._fleet.find(vm)
        regions = await self.regions(vm)
        own = await self._own(running, regions)
        use = MemoryUse(
            vm=vm,
            generation=running.record.generation,
            nominal_mib=await ballooning.nominal_mib(running),
            balloon_mib=await self._balloon_mib(running),
            guest=await self.guest(running),
            group=self._group(running),
            regions=regions,
        )
        return await asyncio.to_thread(_measured, use, running.process.pid, own)

    async def _own(self, running: RunningVm, regions: tuple[Region, ...]) -> list[tuple[int, int]]:
        """Where in the process the guest's memory lies."""
        found = []
        for region in regions:
            said = await running.ask("human-monitor-command", {"command-line": f"gpa2hva {region.guest_address:#x}"})
            words = str(said).split()
            if words and words[-1].startswith("0x"):
                first = int(words[-1], 16)
                found.append((first, first + (region.size_mib << 20)))
        return found

    def _group(self, running: RunningVm) -> GroupUse | None:
        handle = running.record.cgroup
        used = cgroup_memory.used(handle)
        if used is None:
            return None
        kills = self._fleet.host.groups.oom_kills(handle)
        return GroupUse(
            area=cgroup_memory.area_name(handle), used_kib=used.used_kib, max_kib=used.max_kib, oom_kills=kills,
            swap_max_kib=cgroup_memory.swap_max_kib(handle), former_kib=cgroup_class.former_kib(running.record.former),
        )  # fmt: skip

    async def _balloon_mib(self, running: RunningVm) -> int:
        """-1: it is not known."""
        try:
            return await ballooning.has_mib(running, await ballooning.grown_mib(running))
        except DriverError:
            return -1

    async def guest(self, running: RunningVm) -> GuestMemory | None:
        """What the guest's balloon driver said last; None before its first word (it is asked for from the first call on)."""
        try:
            if self._polled.get(running.record.vm) != running.process.pid:
                arguments = {"path": BALLOON, "property": "guest-stats-polling-interval", "value": POLL_S}
                await running.ask("qom-set", arguments)
                self._polled = {vm: pid for vm, pid in self._polled.items() if vm in self._fleet.vms}
                self._polled[running.record.vm] = running.process.pid
            said = await running.ask("qom-get", {"path": BALLOON, "property": "guest-stats"})
        except DriverError:
            return None
        at_s, stats = int(said.get("last-update", 0)), said.get("stats", {})
        if not at_s:
            return None
        return GuestMemory(
            total_kib=_kib(stats, "stat-total-memory"),
            free_kib=_kib(stats, "stat-free-memory"),
            available_kib=_kib(stats, "stat-available-memory"),
            caches_kib=_kib(stats, "stat-disk-caches"),
            swapped_in_kib=_kib(stats, "stat-swap-in"),
            swapped_out_kib=_kib(stats, "stat-swap-out"),
            major_faults=_figure(stats, "stat-major-faults"),
            age_s=max(0, SystemClock().now_us() // 1_000_000 - at_s),
        )


def _given(found: Sequence[Region], plugged: Sequence[dict[str, Any]]) -> tuple[Region, ...]:
    """Of a region that a guest may grow into, what it was given."""
    sizes = {int(d["data"]["memaddr"]): int(d["data"]["size"]) >> 20 for d in plugged if d["type"] == "virtio-mem"}
    sized = (msgspec.structs.replace(r, size_mib=sizes.get(r.guest_address, r.size_mib)) for r in found)
    return tuple(region for region in sized if region.size_mib)


def _now(host: Host) -> MemoryNow:
    """Raises OSError."""
    return msgspec.structs.replace(
        memory_now(),
        areas=areas_of_host.now(host.groups, host.control_plane),
        swaps=swap.swaps(own=own_device(host.state)),
    )


def _resident_mib(pids: Sequence[int]) -> int:
    total_kib = 0
    for pid in pids:
        with suppress(OSError):
            total_kib += process_memory.quick(pid).resident_kib
    return total_kib >> 10


def _measured(use: MemoryUse, pid: int, own: list[tuple[int, int]]) -> MemoryUse:
    """With what the process takes; own: where the guest's memory lies in it. Who may not look into another user's process learns
    from its status how large it is, and nothing finer. Raises DriverError where it is gone."""
    try:
        mapped = process_memory.mappings(pid)
    except PermissionError:
        quick = process_memory.quick(pid)
        finer = ("shared", "ksm", "huge", "guest_resident", "guest_huge", "guest_swapped")
        unknown: dict[str, Any] = {f"{name}_kib": -1 for name in finer}
        sizes = {"resident_kib": quick.resident_kib, "swapped_kib": quick.swapped_kib}
        return msgspec.structs.replace(use, **sizes, **unknown)
    except OSError as error:
        raise DriverError(f"process {pid} of {use.vm} has ended ({error.strerror})") from error
    guest = [m for m in mapped if any(m.first < end and first < m.end for first, end in own)]
    return msgspec.structs.replace(
        use,
        **_sums("", mapped, ("resident", "shared", "huge", "swapped")),
        **_sums("guest_", guest, ("resident", "huge", "swapped")),
        ksm_kib=sum(m.kib.get("KSM", 0) for m in mapped),
        cells=tuple(CellUse(cell=cell, kib=kib) for cell, kib in sorted(process_memory.cells_of(pid).items())),
    )


def _sums(prefix: str, mapped: list[Mapping], names: tuple[str, ...]) -> dict[str, Any]:
    return {f"{prefix}{name}_kib": sum(getattr(m, f"{name}_kib") for m in mapped) for name in names}


def _figure(stats: dict[str, Any], name: str) -> int:
    value = int(stats.get(name, -1))
    return -1 if value in (-1, NOT_SAID) else value


def _kib(stats: dict[str, Any], name: str) -> int:
    value = _figure(stats, name)
    return value if value < 0 else value >> 10
