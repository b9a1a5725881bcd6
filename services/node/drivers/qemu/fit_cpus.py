"""vCPUs of a running VM: plugged in the order of their numbers, and brought online inside where its guest does not do it alone.

Taking one away means that the guest stops using it: an emulated CPU cannot be unplugged (QEMU's memory is corrupt afterwards,
under TCG in all versions tried), and under KVM the guest has to agree as well. It stays plugged, and is the first used again.
Plugging an emulated one ends QEMU, too, where its buffer of translated code is given out to the last region (fit_emulated.py).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from proto.hardware import Misfit
from proto.machine import MachineSpec
from services.node.drivers import DriverError, GuestSilent
from services.node.drivers.qemu import argv, fit_emulated
from services.node.drivers.qemu.guest import GuestRefused, TooLarge

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

GUEST_S_MAX = 1.0
ONLINE_S_MAX = 5.0
"""how long a guest may take to use a CPU that was plugged"""
AGAIN_S = 0.01


class _Cpu(msgspec.Struct, rename="kebab"):
    logical_id: int
    online: bool
    can_offline: bool = False


async def count(vm: RunningVm) -> tuple[int, int]:
    """Plugged, and usable by the guest: as its agent says, else all. Raises DriverError."""
    plugged = len(await vm.do("query-cpus-fast"))
    inside = await _heard(vm, asyncio.get_running_loop().time() + ONLINE_S_MAX)
    return plugged, min(plugged, sum(c.online for c in inside)) if inside else plugged


async def fit(vm: RunningVm, spec: MachineSpec, found: list[Misfit]) -> None:
    """Raises DriverError."""
    wanted, made = spec.shape.vcpus, len(await vm.do("query-cpus-fast"))
    if made < wanted:
        made += await _plug(vm, spec, made)
        if made < wanted:
            said = f"{made} of {wanted} vCPUs are plugged: QEMU has no room yet for the code of another emulated one"
            found.append(Misfit(what="vcpus", sentence=said, pending=True))
    await _use(vm, min(wanted, made), found)


async def _plug(vm: RunningVm, spec: MachineSpec, made: int) -> int:
    """How many. Raises DriverError, OSError."""
    places = await vm.do("query-hotpluggable-cpus")
    free = [c["props"] for c in places if "qom-path" not in c]
    free.sort(key=lambda props: (props["socket-id"], props["core-id"], props["thread-id"]))
    vcpus = [{**argv.vcpu(spec.shape.cpu_model, p["core-id"]), **p} for p in free[: spec.shape.vcpus - made]]
    if await fit_emulated.is_emulated(vm):
        return await fit_emulated.plug(vm, vcpus, len(places))
    for words in vcpus:
        await vm.do("device_add", words)
    return len(vcpus)


async def _use(vm: RunningVm, wanted: int, found: list[Misfit]) -> None:
    """As many online inside as wanted: the guest's own rules bring up what was plugged, its agent does the rest."""
    end = asyncio.get_running_loop().time() + ONLINE_S_MAX
    while True:
        inside = await _heard(vm, end)
        if not inside and wanted < len(await vm.do("query-cpus-fast")):
            raise DriverError("the guest's agent does not answer, and only it can take vCPUs out of use")
        if not inside or sum(c.online for c in inside) == wanted:
            return
        late = asyncio.get_running_loop().time() >= end
        if changes := _changes(inside, wanted):
            try:
                await vm.agent.ask("guest-set-vcpus", {"vcpus": changes}, timeout_s=GUEST_S_MAX)
            except (GuestSilent, GuestRefused, TooLarge) as error:
                if late:
                    raise DriverError(f"the guest does not change its CPUs: {error}") from error
        if late:
            online = sum(c.online for c in inside)
            said = f"the guest uses {online} vCPUs, {wanted} are wanted; look at its kernel's messages"
            found.append(Misfit(what="vcpus", sentence=said, pending=True))
            return
        await asyncio.sleep(AGAIN_S)  # the guest has no event for it


def _changes(inside: list[_Cpu], wanted: int) -> list[dict[str, Any]]:
    """What the guest is asked to do: the lowest numbers are online, the highest that can be are not."""
    online = sum(c.online for c in inside)
    if online < wanted:
        chosen = [c for c in inside if not c.online][: wanted - online]
        return [{"logical-id": c.logical_id, "online": True} for c in chosen]
    chosen = [c for c in reversed(inside) if c.online and c.can_offline][: online - wanted]
    return [{"logical-id": c.logical_id, "online": False} for c in chosen]


async def _heard(vm: RunningVm, end: float) -> list[_Cpu]:
    """The guest's own word. Where its agent has the channel open it is asked until then: just after a plug it may be slow, and
    silence is no word that all is well."""
    while True:
        inside = await _inside(vm)
        if inside or vm.status != "running" or not await vm.fitting.agent_listens():
            return inside
        if asyncio.get_running_loop().time() >= end:
            return inside


async def _inside(vm: RunningVm) -> list[_Cpu]:
    """The guest's own word; nothing where its agent does not answer, or makes no sense."""
    if vm.status != "running":
        return []
    try:
        found = msgspec.convert(await vm.agent.ask("guest-get-vcpus", timeout_s=GUEST_S_MAX), list[_Cpu])
    except (GuestSilent, GuestRefused, TooLarge, msgspec.ValidationError):
        return []
    return sorted(found, key=lambda cpu: cpu.logical_id)
