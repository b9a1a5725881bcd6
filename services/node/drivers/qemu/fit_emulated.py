"""vCPUs of an emulated guest: plugged while it stands still for some milliseconds, and only where QEMU has room for their code.

TCG keeps translated code in one buffer that is cut into regions; each vCPU's thread fills one, then takes the next free one, and
the buffer is emptied only when one is wanted and none is free. A new vCPU's thread needs a region at its birth, and where none is
free QEMU aborts (`tcg_region_initial_alloc__locked: assertion failed`, seen with 7.2), and its guest is lost. That is so whenever
the last region is in use, for as long as the guest translates nothing new: one time in eight to thirty-two, or longer.

So no vCPU is plugged that finds no free region, and the guest does not run between that look and the plug:

    stop ─ room? ──yes── device_add … ── cont
             └──no── cont ─ a moment without chained blocks, and with questions to its agent: all that runs is translated
                     anew, which fills the last region, and QEMU empties the buffer ─ stop …

Blocks of one instruction would fill it faster, but guests stood for seconds in that mode (measured with 7.2).

`Record.plugging` is on disk before the first `stop`: whoever connects to a guest whose agent died in between has it go on.
Meanwhile it counts as running, so that nobody is told of a pause.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from services.node.drivers import DriverError, GuestSilent
from services.node.drivers.qemu.guest import GuestRefused, TooLarge
from services.node.drivers.qemu.qmp import Qmp, QmpError

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

ROOM_S_MAX = 5.0
"""how long the guest may run without chained blocks; an idle one needs about a tenth of a second"""
GUEST_S_MAX = 1.0
QUESTIONS = ("guest-info", "guest-network-get-interfaces", "guest-get-fsinfo", "guest-get-osinfo", "guest-get-memory-blocks")
"""that change nothing in a guest, and have it run code which it does not run while idle"""
AGAIN_S = 0.005
MIB = 1024 * 1024
REGION_BYTES_MIN = 2 * MIB
REGIONS_PER_VCPU_MAX = 8
PROLOGUE_BYTES_MAX = 64 * 1024
"""what the first region lacks"""
EDGE_BYTES_MAX = 16 * 1024
"""what any region may lack: guard page, high-water mark, rounding to pages"""
_CODE = re.compile(r"gen code size\s+([0-9]+)/([0-9]+)")


def free_regions(text: str, vcpus_max: int, plugged: int) -> int | None:
    """At least how many regions are free, by what `x-query-jit` says and by the rule by which QEMU cuts its buffer; None: it says
    nothing of the kind."""
    if (found := _CODE.search(text)) is None:
        return None
    code, capacity = int(found[1]), int(found[2])
    room = -(-capacity // MIB) * MIB // REGION_BYTES_MIN
    regions = vcpus_max if room <= vcpus_max else min(room, vcpus_max * REGIONS_PER_VCPU_MAX)
    full = (code + PROLOGUE_BYTES_MAX) // max(1, capacity // regions - EDGE_BYTES_MAX)
    return max(0, regions - full - plugged)


async def is_emulated(vm: RunningVm) -> bool:
    """Raises DriverError."""
    return not (await vm.do("query-kvm"))["enabled"]


async def plug(vm: RunningVm, vcpus: list[dict[str, Any]], vcpus_max: int) -> int:
    """How many of them were plugged: fewer where the guest's code leaves no room. A guest that is paused stays so. Raises
    DriverError, OSError."""
    try:
        if vm.status != "running":
            return await _plug(vm, vm.qmp, vcpus, vcpus_max)
        await _keep(vm, plugging=True)
        try:
            return await _plug_still(vm, vcpus, vcpus_max)
        finally:
            await over(vm)
    except QmpError as error:
        raise DriverError(f"{vm.record.vm}: a vCPU could not be plugged: {error}") from error


async def _plug_still(vm: RunningVm, vcpus: list[dict[str, Any]], vcpus_max: int) -> int:
    """As `plug`. Raises QmpError, DriverError."""
    done, end = 0, asyncio.get_running_loop().time() + ROOM_S_MAX
    while True:
        async with _still(vm) as qmp:
            done += await _plug(vm, qmp, vcpus[done:], vcpus_max)
        if done == len(vcpus) or not await _make_room(vm, vcpus_max, end):
            return done


async def over(vm: RunningVm) -> None:
    """What a plug may have left behind, also one that another agent began: the guest goes on, as fast as ever. Raises QmpError,
    OSError."""
    if not vm.record.plugging:
        return
    await _chain(vm.qmp, "none")
    await _go_on(vm, vm.qmp)
    await _keep(vm, plugging=False)


@asynccontextmanager
async def _still(vm: RunningVm) -> AsyncIterator[Qmp]:
    """The monitor, and no other: another connection would have the guest go on. Raises QmpError."""
    qmp, vm.still = vm.qmp, True
    try:
        await qmp.execute("stop")
        yield qmp
    finally:
        try:
            await _go_on(vm, qmp)
        finally:
            vm.still = False


async def _go_on(vm: RunningVm, qmp: Qmp) -> None:
    """Unless it stopped for a reason of its own in the same instant, which is told then. Raises QmpError."""
    status = str((await qmp.execute("query-status"))["status"])
    if status == "paused":
        before, vm.status = vm.status, "running"
        try:
            await qmp.execute("cont")
        except QmpError:
            vm.status = before
            raise
    elif status != "running" and vm.status == "running":
        vm.become(vm.word(status))


async def _plug(vm: RunningVm, qmp: Qmp, vcpus: list[dict[str, Any]], vcpus_max: int) -> int:
    """As many as have room; nothing may run meanwhile. Raises QmpError, DriverError."""
    chosen = vcpus[: await _free(vm, qmp, vcpus_max)]
    for words in chosen:
        await qmp.execute("device_add", words)
    return len(chosen)


async def _free(vm: RunningVm, qmp: Qmp, vcpus_max: int) -> int:
    plugged = len(await qmp.execute("query-cpus-fast"))
    text = str((await qmp.execute("x-query-jit"))["human-readable-text"])
    if (free := free_regions(text, vcpus_max, plugged)) is None:
        said = "its QEMU does not say whether it has room for another emulated vCPU; restart the VM"
        raise DriverError(f"{vm.record.vm}: {said}")
    return free


async def _make_room(vm: RunningVm, vcpus_max: int, end: float) -> bool:
    """Whether there was some. The guest runs, slower than else. Raises QmpError, DriverError."""
    left = list(QUESTIONS)
    await _chain(vm.qmp, "nochain")
    try:
        while vm.status == "running" and asyncio.get_running_loop().time() < end:
            if await _free(vm, vm.qmp, vcpus_max):
                return True
            if not (left and await _busy(vm, left.pop(0))):
                left.clear()
                await asyncio.sleep(AGAIN_S)  # QEMU has no event for it
        return False
    finally:
        await _chain(vm.qmp, "none")


async def _chain(qmp: Qmp, how: str) -> None:
    """"nochain": each block is looked up, and those that are chained are made again; "none": as usual. Raises QmpError."""
    await qmp.execute("human-monitor-command", {"command-line": f"log {how}"})


async def _busy(vm: RunningVm, question: str) -> bool:
    """Whether the guest's agent had its guest run something."""
    try:
        await vm.agent.ask(question, timeout_s=GUEST_S_MAX)
    except GuestRefused:
        return True
    except (GuestSilent, TooLarge):
        return False
    return True


async def _keep(vm: RunningVm, *, plugging: bool) -> None:
    record = msgspec.structs.replace(vm.record, plugging=plugging)
    await asyncio.to_thread(vm.folder.save, record)
    vm.record = record
