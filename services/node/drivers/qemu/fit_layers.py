"""Snapshots of a running VM: its disks are put on top of what they are, all at one instant; layers that leave are merged upwards.

    take     new files ── nodes ── freeze ── transaction ── thaw ── how it went, on disk
    merge    a job of QEMU, which outlives the agent; the file above stands on it until all was copied and is durable

An attempt to take is made once: how it failed is on disk before anybody hears of it, and the same order is told the same again.
What is there is looked at first, so that what was cut short anywhere is gone on with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from proto.hardware import Consistency, Misfit, Took
from proto.machine import Disk, DiskFormat, Freeze, MachineSpec
from services.node import pacing
from services.node.drivers import DriverError
from services.node.drivers.qemu import devices, disks, launch, layers, making, origins, reads
from services.node.drivers.qemu.chains import Chain, chains, closed, left
from services.node.drivers.qemu.devices import LAYERS, Backing, over_id
from services.node.drivers.qemu.fitting import misfits
from services.node.drivers.qemu.freezer import NotFrozen
from services.node.drivers.qemu.process import uid_for

if TYPE_CHECKING:
    from services.node.drivers.qemu.launch import Host
    from services.node.drivers.qemu.machine import RunningVm

log = logging.getLogger(__name__)

MERGED_S = 2.0
"""how long a merge is waited for before it counts as pending"""


async def fit(vm: RunningVm, host: Host, spec: MachineSpec, found: list[Misfit]) -> dict[int, tuple[str, ...]]:
    """The files of each disk that is to have layers, as they are then. Raises DriverError where QEMU cannot be asked."""
    layered = [disk for disk in spec.disks if disk.layers]
    if not layered:
        return {}
    there = await chains(vm)
    untaken = [d for d in layered if d.slot in there and there[d.slot].files[:1] == (d.layers[0].file,)]
    if untaken:
        await _take(vm, host, spec, untaken, there)
        there = await chains(vm)
    for disk in layered:
        if disk.slot in there:
            # pending: an image that is being made of a layer holds it for a while
            async with misfits(found, "snapshot", disk.slot, pending=True):
                await _merge(vm, host, disk, there[disk.slot], found)
    there = await chains(vm)
    return {d.slot: there[d.slot].files for d in layered if d.slot in there}


# --- taking --------------------------------------------------------------------------------------------------------------


async def _take(
    vm: RunningVm, host: Host, spec: MachineSpec, wanted: list[Disk], there: dict[int, Chain]
) -> None:
    """How it went is in the VM's record then."""
    token = spec.taking.token if spec.taking is not None else ""
    if (last := vm.record.took) is not None and last.failed and last.token == token:
        return
    begun, took = time.monotonic(), Took(token=token)
    try:
        tops = {disk.slot: await _ready(vm, host, spec, disk, there[disk.slot]) for disk in wanted}
        took = await _freeze_and_take(vm, wanted, there, tops, took, spec.taking.freeze if spec.taking else Freeze.AUTO)
    except (DriverError, OSError) as error:
        took = Took(token=token, failed=True, sentence=str(error))
        await vm.remember(took=took)
        await _undo(vm, host, spec.vm, wanted)
        return
    for disk in wanted:
        path = host.pools[disk.pool] / LAYERS / disk.layers[0].file
        await asyncio.to_thread(layers.seal, path, uid_for(spec.vm))
    await vm.remember(took=msgspec.structs.replace(took, took_ms=_ms(begun)))


async def _ready(vm: RunningVm, host: Host, spec: MachineSpec, disk: Disk, chain: Chain) -> str:
    """Makes the new file and its block node, where they are not there. Its name."""
    pool, first = host.pools[disk.pool], disk.layers[0]
    if disk.pool in host.remotes:
        raise DriverError(f"pool {disk.pool} is {host.remotes[disk.pool].kind}: {making.NO_FOLDER}")
    uid = uid_for(spec.vm)
    await asyncio.to_thread(making.make, host, disk, Backing(f"{LAYERS}{first.file}", first.format), uid)
    folder = await asyncio.to_thread(launch.seen_by, pool, vm.process.pid, uid)
    if not folder:
        raise DriverError(f"pool {disk.pool!r} cannot be reached by the VM that runs; restart it")
    name = over_id(disk.slot, _tail(disk.file))
    there = set(await left(vm, disk.slot, chain))
    for node in devices.top_nodes(disk, folder, disk.pool in host.direct, name, None):
        if node["node-name"] not in there:
            await vm.do("blockdev-add", node)
    return name


def _tail(file: str) -> str:
    """What is its own in the name of a file: short enough for a block node's name, of 31 characters."""
    return file.removesuffix(".qcow2").rpartition(".s")[2][-15:]


async def _freeze_and_take(
    vm: RunningVm, wanted: list[Disk], there: dict[int, Chain], tops: dict[int, str], took: Took, freeze: Freeze
) -> Took:
    """Raises DriverError; then nothing was taken."""
    actions = [
        {"type": "blockdev-snapshot", "data": {"node": there[d.slot].nodes[0], "overlay": tops[d.slot]}} for d in wanted
    ]
    frozen, said, begun = 0, "", time.monotonic()
    if freeze is not Freeze.NO:
        try:
            frozen = await vm.freezer.freeze()
        except NotFrozen as error:
            if freeze is Freeze.REQUIRE:
                raise DriverError(f"the file systems of {vm.record.vm} do not stand still: {error}") from error
            said = str(error)
    try:
        await vm.do("transaction", {"actions": actions})
    finally:
        thawed = await vm.freezer.thaw() if frozen else 0
    if not frozen:
        return msgspec.structs.replace(took, sentence=said)
    if not thawed:
        said = "its guest did not say whether its file systems still stood still"
        return msgspec.structs.replace(took, sentence=said)
    return msgspec.structs.replace(took, consistency=Consistency.FILESYSTEM, frozen_ms=_ms(begun))


async def _undo(vm: RunningVm, host: Host, name: str, wanted: list[Disk]) -> None:
    """Files that were made and not used are removed."""
    now = await chains(vm)
    for disk in wanted:
        if disk.file in now[disk.slot].files:
            continue
        await _idle_away(vm, disk.slot, now[disk.slot])
        alone = msgspec.structs.replace(disk, layers=())
        await asyncio.to_thread(disks.remove, host.pools[disk.pool], name, (alone,))


def _ms(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)


# --- merging -------------------------------------------------------------------------------------------------------------


async def _merge(vm: RunningVm, host: Host, disk: Disk, chain: Chain, found: list[Misfit]) -> None:
    """Raises DriverError."""
    job = f"merge{disk.slot}"
    leaving = {layer.file for layer in disk.layers if layer.leaving}
    if leaving.intersection(chain.files):
        if not vm.merges.goes_on(job):
            await _begin(vm, host, disk, chain, leaving, job)
        if origins.any_of((disk,)):
            vm.homing.see_to(disk, chain, _reads(host, disk))
        into = _first(chain, leaving) - 1
        said = await vm.merges.ended(job, MERGED_S, lambda: _durable(vm, disk, chain, into))
        if said is None:
            found.append(Misfit(what="merge", slot=disk.slot, sentence="a layer is being merged", pending=True))
            return
        if said:
            found.append(Misfit(what="snapshot", slot=disk.slot, sentence=said, pending=True))
            return
        chain = (await chains(vm))[disk.slot]
    await vm.homing.over(disk.slot)
    if leaving:  # what has left may be deleted as soon as it is told, so no header on the storage may name it any more
        await asyncio.to_thread(_synced, host, disk, chain)
    await _idle_away(vm, disk.slot, chain)
    if origins.any_of((disk,)):
        await closed(vm, disk.slot)
    await _sealed(host, vm.record.vm, disk, chain)


def _reads(host: Host, disk: Disk) -> Path:
    """Where it is kept what a guest of that disk touches first: beside the backup that it stands on."""
    origin = next(layer.origin for layer in disk.layers if layer.origin is not None)
    return reads.place(host.pools[origin.pool], origin.vm, disk.name)


async def _begin(vm: RunningVm, host: Host, disk: Disk, chain: Chain, leaving: set[str], job: str) -> None:
    first = _first(chain, leaving)
    rest = chain.nodes[first:]
    below = next((node for node, file in zip(rest, (*chain.files[first:], ""), strict=False) if file not in leaving), "")
    words: dict[str, object] = {"job-id": job, "device": chain.nodes[first - 1], "on-error": "report"}
    if below:
        words |= {"base-node": below, "backing-file": _named(host, disk, chain, below)}
    if origins.any_of((disk,)):
        words["speed"] = pacing.CREEP
    if first > 1:  # a layer itself, which is written this once
        path = host.pools[disk.pool] / LAYERS / chain.files[first - 1]
        await asyncio.to_thread(path.chmod, 0o600)
    await vm.merges.begin(job, words)


async def _durable(vm: RunningVm, disk: Disk, chain: Chain, at: int) -> None:
    """All that was written to that node is, its tables too. Raises DriverError, OSError."""
    node = chain.nodes[at]
    try:
        await vm.homing.flushed(disk.slot, node)
    except (DriverError, OSError) as error:  # as where it serves somebody else
        log.info("%s: %s is opened anew, and its guest held up for that: %s", vm.record.vm, node, error)
        words = {"driver": DiskFormat.QCOW2, "node-name": node, "file": f"{node}-file", "backing": chain.nodes[at + 1]}
        await vm.do("blockdev-reopen", {"options": [{**words, "read-only": False, "discard": "unmap"}]})


def _first(chain: Chain, leaving: set[str]) -> int:
    return next(i for i, file in enumerate(chain.files) if file in leaving)


def _synced(host: Host, disk: Disk, chain: Chain) -> None:
    """Blocking. Raises OSError."""
    for file in chain.files:
        fd = os.open(host.pools[disk.pool] / LAYERS / file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _named(host: Host, disk: Disk, chain: Chain, node: str) -> str:
    """A file beneath, as the header above it names it."""
    at = chain.nodes.index(node)
    if at < len(chain.files):
        return chain.files[at]
    return layers.named(disks.base_of(host.pools[disk.pool], disk.image))


async def _sealed(host: Host, vm: str, disk: Disk, chain: Chain) -> None:
    own = {layer.file for layer in disk.layers if layer.origin is None}
    for file in (file for file in chain.files[1:] if file in own):
        await asyncio.to_thread(layers.seal, host.pools[disk.pool] / LAYERS / file, uid_for(vm))


async def _idle_away(vm: RunningVm, slot: int, chain: Chain) -> None:
    """Block nodes on which the disk does not stand any more, and their files with them."""
    for node in await left(vm, slot, chain):
        await vm.fitting.away("blockdev-del", {"node-name": node})
