"""What this node can do with QEMU: found out by asking the machine and QEMU, and said with what could not be enforced."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from proto.compute import Capabilities
from proto.machine import Firmware
from services.node.drivers import DriverError
from services.node.drivers.qemu.node_networks import NodeNetworks
from services.node.drivers.qemu.process import UID_NOBODY, uid_for
from services.node.host import accel, areas, cgroup_class, cgroup_memory, cpu, memory, swap
from services.node.host.cgroup import Groups
from services.node.host.qemu import VERSION_S_MAX, QemuUnusable, version

HOTPLUG = ("vcpu-add", "dimm", "virtio-mem", "disk", "nic")
_Q35 = re.compile(r"^q35\s.*\(alias of (\S+)\)$", re.MULTILINE)


class Found(msgspec.Struct, frozen=True):
    """accelerator and CPU model as probed; machine: QEMU's newest q35, to be pinned in definitions."""

    accelerator: accel.Accelerator
    version: str
    machine: str


async def find(qemu: str, cache: Path) -> Found:
    """Probed once per boot and QEMU (kept in `cache`). Raises DriverError."""
    try:
        probed = await accel.probe(qemu, cache)
        return Found(probed, await version(qemu), await _newest_q35(qemu))
    except QemuUnusable as error:
        raise DriverError(str(error)) from error


def describe(
    found: Found,
    *,
    share: int,
    memory_mib: int = 0,
    pools: Mapping[str, Path],
    direct: frozenset[str],
    networks: NodeNetworks,
    groups: Groups,
    control_plane: bool = False,
    uefi: bool = False,
) -> Capabilities:
    """share: how many embedded nodes divide this host. Memory is this node's part; pCPUs are the host's, as each node's VMs run on
    all of them: what a node may promise is pcpus / share. memory_mib: its part, where that is stated."""
    topology = cpu.topology()
    usable = topology.usable
    cells = [cell for cell in memory.cells() if set(cell.pcpus) & set(usable)]
    swaps = swap.swaps()
    swap_mib, swap_memory_mib = swap.for_vms(swaps)
    bridges = networks.bridges()
    return Capabilities(
        accelerator=found.accelerator.name,
        cpu_model=found.accelerator.cpu_model,
        pcpus=max(1, len(usable)),
        memory_mib=min(memory_mib, memory.memory().total_mib) if memory_mib else memory.part_mib(share),
        qemu_version=found.version,
        machine=found.machine,
        driver="qemu",
        cells=tuple(tuple(p for p in cell.pcpus if p in usable) for cell in cells),
        cells_mib=tuple(cell.total_mib // share for cell in cells),
        cell_numbers=tuple(cell.number for cell in cells),
        pools=tuple(sorted(pools)),
        bridges=bridges,
        tap_filter=networks.may_filter(bridges),
        hotplug=HOTPLUG,
        firmware=(Firmware.DIRECT, Firmware.BIOS, *((Firmware.UEFI,) if uefi else ())),
        not_enforced=(
            *_not_enforced(found, share, pools, direct, groups), *networks.not_enforced(bridges), *swap.unfit(swaps),
        ),
        share=share,
        swap_mib=swap_mib // share,
        balloon=True,
        memory_areas=memory_areas(groups),
        swap_memory_mib=-(-swap_memory_mib // share),
        control_plane=control_plane,
        cores=tuple(sorted({tuple(s for s in p.siblings if s in usable) for p in topology.pcpus if p.number in usable})),
        isolated=topology.isolated,
    )


def memory_areas(groups: Groups) -> str:
    """Which version of control groups divides memory here; "": none."""
    try:
        folder = groups.area("")
    except OSError:
        return ""
    version = 0 if folder is None else cgroup_memory.version_of(folder)
    return f"v{version}" if version else ""


def _not_enforced(
    found: Found, share: int, pools: Mapping[str, Path], direct: frozenset[str], groups: Groups
) -> list[str]:
    said = []
    if found.accelerator.name != "kvm":
        said.append(found.accelerator.reason)
        said.append("Windows guests are emulated without Hyper-V enlightenments: they are slower, and tell of no blue screen")
    if share > 1:
        said.append(f"{share} nodes divide this host: its CPUs and memory are counted once, not kept apart")
    said += groups.ability().not_enforced
    if memory_areas(groups) == "v1":
        said += cgroup_memory.NOT_ENFORCED_V1
        said += [cgroup_memory.SWAP_NOT_BANNED_V1] if swap.swaps() else []
    elif (folder := groups.area("")) is not None and not cgroup_memory.promised(folder.parent):
        said.append(cgroup_memory.NOT_HELD_V2)
    if memory_areas(groups) and cgroup_class.charges_stay(groups):
        said.append(cgroup_class.STAYS)
    if not areas.may_protect():
        said.append(areas.UNPROTECTED)
    uid = uid_for("any")
    if uid is None:
        said.append(f"QEMU runs as user {os.geteuid()}, as the agent does: VMs have no users of their own")
    elif uid == UID_NOBODY:
        said.append("user ids of their own are not mapped here: all VMs run as nobody")
    said += [
        f"pool {name} is on a file system without O_DIRECT: the host's cache lies between"
        for name in sorted(pools)
        if name not in direct
    ]
    return said


async def _newest_q35(qemu: str) -> str:
    process = await asyncio.create_subprocess_exec(
        qemu, "-machine", "help", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), VERSION_S_MAX)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise DriverError(f"{qemu} did not list its machines within {VERSION_S_MAX:.0f} s") from None
    match = _Q35.search(out.decode(errors="replace"))
    if match is None:
        raise DriverError(f"{qemu} knows no q35 machine; QEMU for x86_64, 7.2 or newer, is needed")
    return match[1]
