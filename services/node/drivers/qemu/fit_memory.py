"""Memory of a running VM: virtio-mem, whose guest takes or gives back blocks until it has what is requested; or DIMMs, where
the guest has no driver for that (they come in units of 128 MiB, and go only where the guest can empty them).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proto.hardware import Misfit
from proto.machine import MachineSpec, birth
from services.node.drivers import DriverError
from services.node.drivers.qemu.argv import MEMORY_DEVICE, MIB
from services.node.drivers.qemu.fitting import PERIPHERAL

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

GROW_S_MAX = 5.0
SHRINK_S_MAX = 10.0
"""how long the guest may take to empty blocks"""
AGAIN_S = 0.005
DIMM_UNIT_MIB = 128
DEVICE = f"{PERIPHERAL}/{MEMORY_DEVICE}"
DIMM = "dimm"


async def size_mib(vm: RunningVm) -> int:
    """What the guest was given: at its birth, and since. Raises DriverError."""
    found = await vm.do("query-memory-size-summary")
    return (int(found["base-memory"]) + int(found.get("plugged-memory", 0))) // MIB


async def fit(vm: RunningVm, spec: MachineSpec, found: list[Misfit]) -> None:
    """Raises DriverError."""
    has, wanted = await size_mib(vm), spec.shape.memory_mib
    if birth(spec).dimm:
        await _fit_dimms(vm, has, wanted, found)
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


async def _fit_dimms(vm: RunningVm, has: int, wanted: int, found: list[Misfit]) -> None:
    """One DIMM for each growth; the last ones in are the first to be asked back, whole."""
    sizes = {str(d["data"]["id"]): int(d["data"]["size"]) // MIB for d in await vm.do("query-memory-devices")}
    numbers = {id: int(id.removeprefix(DIMM)) for id in sizes if id.startswith(DIMM)}
    if wanted > has:
        await _add_dimm(vm, 1 + max(numbers.values(), default=-1), wanted - has)
        return
    for id in sorted(numbers, key=numbers.__getitem__, reverse=True):
        if has - sizes[id] < wanted:
            break
        if said := await vm.fitting.unplug(id):
            found.append(Misfit(what="memory", sentence=f"{id} of {sizes[id]} MiB: {said}", pending=True))
            return
        await vm.fitting.away("object-del", {"id": f"{id}-memory"})
        has -= sizes[id]
    if has != wanted:
        said = f"it has {has} MiB, {wanted} are wanted: DIMMs go whole; they are of {sorted(sizes.values())} MiB"
        found.append(Misfit(what="memory", sentence=said))


async def _add_dimm(vm: RunningVm, number: int, mib: int) -> None:
    if mib % DIMM_UNIT_MIB:
        raise DriverError(f"{mib} MiB are no DIMM: a multiple of {DIMM_UNIT_MIB} MiB is")
    id = f"{DIMM}{number}"
    await vm.fitting.away("object-del", {"id": f"{id}-memory"})  # of a try that was cut short
    backend = {"qom-type": "memory-backend-ram", "id": f"{id}-memory", "size": mib * MIB}
    await vm.do("object-add", backend)
    try:
        await vm.do("device_add", {"driver": "pc-dimm", "id": id, "memdev": f"{id}-memory"})
    except DriverError:
        await vm.fitting.away("object-del", {"id": f"{id}-memory"})
        raise
