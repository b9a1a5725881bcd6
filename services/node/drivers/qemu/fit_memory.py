"""Memory of a running VM: virtio-mem, whose guest takes or gives back blocks until it has what is requested; or DIMMs, where
the guest has no driver for that (they come in multiples of 128 MiB, and go only where the guest can empty them).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from proto.hardware import Misfit
from proto.machine import MachineSpec, MemoryBy, birth
from services.node.drivers import DriverError, GuestSilent
from services.node.drivers.qemu import argv
from services.node.drivers.qemu.argv import DIMM, MEMORY_DEVICE, MIB
from services.node.drivers.qemu.fitting import PERIPHERAL
from services.node.drivers.qemu.guest import GuestRefused, TooLarge

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

GUEST_S_MAX = 1.0
GROW_S_MAX = 5.0
SHRINK_S_MAX = 10.0
"""how long the guest may take to empty blocks"""
AGAIN_S = 0.005
DEVICE = f"{PERIPHERAL}/{MEMORY_DEVICE}"


class _Block(msgspec.Struct, rename="kebab"):
    """128 MiB or more of the guest's memory."""

    phys_index: int
    online: bool


async def size_mib(vm: RunningVm) -> int:
    """What the guest was given: at its birth, and since. Raises DriverError."""
    found = await vm.do("query-memory-size-summary")
    return (int(found["base-memory"]) + int(found.get("plugged-memory", 0))) // MIB


async def fit(vm: RunningVm, spec: MachineSpec, found: list[Misfit]) -> None:
    """Raises DriverError."""
    has, wanted = await size_mib(vm), spec.shape.memory_mib
    if spec.shape.memory_by is MemoryBy.DIMM:
        await _fit_dimms(vm, spec, found)
        return
    if MEMORY_DEVICE not in await vm.fitting.devices():
        if has != wanted:
            raise DriverError(f"{spec.vm} was started without room to grow; restart it with a larger maximum")
        return
    more = wanted - birth(spec).memory_mib
    request = {"path": DEVICE, "property": "requested-size"}
    if int(await vm.do("qom-get", request)) != more * MIB:
        await vm.do("qom-set", {**request, "value": more * MIB})
    if not await _reached(vm, more, GROW_S_MAX if wanted > has else SHRINK_S_MAX):
        now = await size_mib(vm)
        verb = "has taken" if wanted > has else "still holds"
        said = f"the guest {verb} {now} MiB, {wanted} are wanted; it goes on by itself"
        found.append(Misfit(what="memory", sentence=said, pending=True))


async def _reached(vm: RunningVm, more_mib: int, within_s: float) -> bool:
    """QEMU's event is rate-limited to one a second, so the size is asked."""
    end = asyncio.get_running_loop().time() + within_s
    while True:
        size = int(await vm.do("qom-get", {"path": DEVICE, "property": "size"}))
        if size == more_mib * MIB:
            return True
        if vm.status != "running" or asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(AGAIN_S)


async def _fit_dimms(vm: RunningVm, spec: MachineSpec, found: list[Misfit]) -> None:
    """The modules that are wanted; those that are others, or too many, are asked back, the last one first."""
    has = await dimms_mib(vm)
    same = max(n for n in range(len(has) + 1) if has[:n] == spec.dimms_mib[:n])
    for number in reversed(range(same, len(has))):
        if said := await vm.fitting.unplug(f"{DIMM}{number}"):
            sentence = f"its module {number} of {has[number]} MiB: {said}"
            found.append(Misfit(what="memory", sentence=sentence, pending=True))
            return
        await vm.fitting.away("object-del", {"id": f"{DIMM}{number}-memory"})
    for number in range(same, len(spec.dimms_mib)):
        await _add_dimm(vm, number, spec.dimms_mib[number])
    if same < len(spec.dimms_mib) and await vm.fitting.agent_listens():
        await _bring_online(vm, found)


async def _bring_online(vm: RunningVm, found: list[Misfit]) -> None:
    """Blocks of memory that the guest has found and does not use of itself, it is asked to use."""
    end = asyncio.get_running_loop().time() + GROW_S_MAX
    while True:
        try:
            blocks = msgspec.convert(await vm.agent.ask("guest-get-memory-blocks", timeout_s=GUEST_S_MAX), list[_Block])
            off = [{"phys-index": block.phys_index, "online": True} for block in blocks if not block.online]
            if not off:
                return
            await vm.agent.ask("guest-set-memory-blocks", {"mem-blks": off}, timeout_s=GUEST_S_MAX)
        except (GuestRefused, TooLarge, msgspec.ValidationError):
            return  # its agent knows nothing of memory
        except GuestSilent:
            pass  # it may be busy with just that
        if asyncio.get_running_loop().time() >= end:
            said = "its guest has not said that it uses all of the memory; look at its kernel's messages"
            found.append(Misfit(what="memory", sentence=said, pending=True))
            return
        await asyncio.sleep(AGAIN_S)  # the guest has no event for it


async def dimms_mib(vm: RunningVm) -> tuple[int, ...]:
    """The modules it has, in order. Raises DriverError."""
    found = (d["data"] for d in await vm.do("query-memory-devices") if d["type"] == DIMM)
    sizes = {int(str(d["id"]).removeprefix(DIMM)): int(d["size"]) // MIB for d in found}
    return tuple(mib for _, mib in sorted(sizes.items()))


async def _add_dimm(vm: RunningVm, number: int, mib: int) -> None:
    """Raises DriverError; then nothing of it is left."""
    backend = argv.dimm_memory(number, mib)
    await vm.fitting.away("object-del", {"id": backend["id"]})  # of a try that was cut short
    await vm.do("object-add", backend)
    try:
        await vm.do("device_add", argv.dimm(number))
    except DriverError:
        await vm.fitting.away("object-del", {"id": backend["id"]})
        raise
