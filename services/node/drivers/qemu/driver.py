"""The qemu driver: keeps the Driver contract with real processes. Each VM's ways are in machine.py, all of them in
fleet.py, a birth in launch.py; here the contract's verbs are joined to them.

    driver = QemuDriver("n1", Path("/var/lib/asv/n1"), {"default": Path("/var/lib/asv/pool")})
    machines = await driver.open()

`state` is this node's own folder and belongs to one driver at a time; pools may be shared by nodes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec

from libs.memory.areas import STORAGE
from proto.backups import BackupDone, SavedDisk
from proto.compute import Capabilities
from proto.images import DiskSource
from proto.io import ImageFormat, ImageInfo
from proto.machine import DirectBoot, Disk, MachineSpec
from proto.networks import Bridge
from proto.node import CopyNow, ExecResult, OrderBackup, OrderBackupRemoval, OrderBackupVerify, VmInfo
from proto.plan import PlanFault, VmPlan
from proto.space import PoolNow
from services.node.drivers import (
    AT_HAND,
    CannotStart,
    Console,
    DriverError,
    GuestSilent,
    Machine,
    MachineChanged,
    Move,
    NoSuchVm,
    Verified,
    VmCpu,
)
from services.node.drivers.backup_files import BackupFiles
from services.node.drivers.changes import Changes
from services.node.drivers.copying import Copies
from services.node.drivers.io import IoCount
from services.node.drivers.qemu import (
    abilities,
    cpu,
    grouping,
    images,
    io_count,
    look,
    pulse,
    secrecy,
)
from services.node.drivers.qemu import disks as pool_files
from services.node.drivers.qemu.argv import BadSpec
from services.node.drivers.qemu.backups import reader
from services.node.drivers.qemu.backups.work import Backups
from services.node.drivers.qemu.files import Files
from services.node.drivers.qemu.fit import fit
from services.node.drivers.qemu.fleet import Fleet, with_direct
from services.node.drivers.qemu.guest import GuestRefused, TooLarge
from services.node.drivers.qemu.launch import Host, Maker
from services.node.drivers.qemu.memory import QemuMemory
from services.node.drivers.qemu.node_networks import NodeNetworks
from services.node.drivers.qemu.pool_figures import PoolFigures
from services.node.drivers.qemu.qemu_img import QemuImg
from services.node.drivers.qemu.stores.settings import Remote
from services.node.drivers.vitals import VitalCount
from services.node.host import areas, cgroup_left, ovmf
from services.node.host.cgroup import Groups
from services.node.host.cgroup_cpu import lift
from services.node.host.identity import machine_uuid
from services.node.host.threads import affinity


class QemuDriver:
    """See the module. share: how many embedded nodes divide this host's CPUs and memory; memory_mib: what of its memory this
    one may use, where that is stated (0: it is not). accelerator: `kvm` or `tcg`; what a probe at `open` found where nothing is
    said. remotes: of pools that are no folder, where their disks are; `pools` names the folder of their leases. bridges: those
    that VMs may be put into (none named: all), network_namespace: in which they are; None: the host's. cache: where the probe's
    verdict is kept (`state` where nothing is said; nodes on one host may share one). control_plane: the group that the
    cluster's control plane stands in, where it runs on this host. appliance: the folder of the file reader."""

    def __init__(
        self,
        node: str,
        state: Path,
        pools: Mapping[str, Path],
        *,
        qemu: str = "qemu-system-x86_64",
        share: int = 1,
        memory_mib: int = 0,
        accelerator: str = "",
        bridges: Sequence[str] = (),
        maker: Maker | None = None,
        groups: Groups | None = None,
        cache: Path | None = None,
        moves_at: str = "",
        control_plane: Path | None = None,
        network_namespace: Path | None = None,
        remotes: Mapping[str, Remote] | None = None,
        appliance: Path | None = None,
    ) -> None:
        if not pools:
            raise ValueError("a node needs at least one pool, for instance {'default': Path('/var/lib/asv/pool')}")
        self._share = share
        self._memory_mib = memory_mib
        self._cache = cache or state
        self._found: abilities.Found | None = None
        self._changes = Changes()
        self._weights: dict[str, tuple[int, int, str]] = {}
        """VM -> process, weight and group that the groups above it are known to hold"""
        groups = groups or Groups(name=f"asv-{node}.{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]}")
        self._image_tool = QemuImg(stand=lambda pid: areas.join(groups, STORAGE, pid))
        host = Host(
            node=node,
            qemu=qemu,
            accelerator=accelerator,
            state=state,
            pools=dict(pools),
            direct=frozenset(),
            networks=NodeNetworks(bridges, network_namespace),
            maker=maker or self._image_tool,
            groups=groups,
            control_plane=control_plane,
            moves_at=moves_at,
            ovmf=ovmf.find(),
            remotes=dict(remotes or {}),
            appliance=appliance,
        )
        self._fleet = Fleet(host, self._changes.put)
        self._files = Files(self._fleet, self._image_tool)
        self._figures = PoolFigures(host.pools, host.remotes)
        self._backups = Backups(self._fleet, self._image_tool)
        self._copies = Copies()
        self._copies.looks += [self._backups.copies, self._fleet.homecoming]
        self.memory = QemuMemory(self._fleet, memory_mib)

    # --- coming and going -----------------------------------------------------------------------------------------

    async def open(self) -> list[Machine]:
        direct = await asyncio.to_thread(_prepare, self._fleet.host)
        if self._found is None:
            await asyncio.to_thread(reader.sweep, self._fleet.host.state)
            self._found = await abilities.find(self._fleet.host.qemu, self._cache)
        self._fleet.host = with_direct(self._fleet.host, direct, self._found.accelerator.name)
        await self._fleet.adopt()
        await self._backups.open()
        return [self._fleet.vms[name].machine() for name in sorted(self._fleet.vms)]

    async def close(self) -> None:
        await self._backups.close()
        await self._fleet.close()
        self._fleet.host.networks.close()
        self._changes.end()

    async def changes(self) -> AsyncIterator[MachineChanged]:
        async for change in self._changes.stream():
            yield change

    async def capabilities(self) -> Capabilities:
        assert self._found is not None, "open() comes first"
        host = self._fleet.host
        can = await asyncio.to_thread(
            abilities.describe,
            self._found,
            share=self._share,
            memory_mib=self._memory_mib,
            pools=host.pools,
            direct=host.direct,
            networks=host.networks,
            groups=host.groups,
            control_plane=host.control_plane is not None,
            uefi=host.ovmf is not None,
        )
        ids = {name: await asyncio.to_thread(pool_files.id_of, pool) for name, pool in host.pools.items()}
        key = secrecy.public(await asyncio.to_thread(secrecy.own_key, host.state / "keys"))
        locked = tuple(sorted(name for name in host.direct if name not in host.remotes))
        keys = await asyncio.to_thread(host.ring.ids)
        return msgspec.structs.replace(
            can, pool_ids=ids, move_key=key, lease_pools=locked, machine_uuid=machine_uuid(), backup_keys=keys
        )

    async def bridges(self) -> tuple[Bridge, ...]:
        return await asyncio.to_thread(self._fleet.host.networks.bridges)

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def start(self, spec: MachineSpec) -> Machine:
        with self._files.resting.way_for(spec.vm):
            return await self._start(spec)

    async def _start(self, spec: MachineSpec) -> Machine:
        async with self._fleet.lock(spec.vm):
            await self._backups.give_up(spec.vm, f"{spec.vm} was started")
            try:
                return (await self._fleet.start(spec)).machine()
            except (BadSpec, OSError) as error:
                raise CannotStart(f"{spec.vm}: {error}") from error

    async def shutdown(self, vm: str) -> None:
        async with self._fleet.lock(vm):
            await self._fleet.find(vm).shutdown()

    async def kill(self, vm: str) -> None:
        async with self._fleet.lock(vm):
            if (running := self._fleet.vms.get(vm)) is not None:
                running.backups.reason = running.backups.reason or f"{vm} was powered off"
            await self._fleet.kill(vm)

    async def pause(self, vm: str) -> None:
        async with self._fleet.lock(vm):
            await self._fleet.find(vm).pause()

    async def resume(self, vm: str) -> None:
        async with self._fleet.lock(vm):
            await self._fleet.find(vm).resume()

    async def reset(self, vm: str) -> None:
        async with self._fleet.lock(vm):
            await self._fleet.find(vm).reset()

    async def fit(self, spec: MachineSpec) -> Machine:
        async with self._fleet.lock(spec.vm):
            running = self._fleet.find(spec.vm)
            _same(running.record.generation, spec.vm, spec.generation)
            if going := running.backups.slots().intersection(spec.leaving):
                await self._backups.give_up(spec.vm, f"the device in slot {min(going)} is to be unplugged")
            hardware = await fit(running, self._fleet.host, spec)
            if running.record.protected != spec.protected:
                await running.remember(protected=spec.protected)
            return msgspec.structs.replace(running.machine(), hardware=hardware)

    async def look(self, vm: str) -> Machine:
        async with self._fleet.lock(vm):
            running = self._fleet.find(vm)
            return msgspec.structs.replace(running.machine(), present=await look.look(running))

    # --- CPU time -------------------------------------------------------------------------------------------------

    async def schedule(self, plan: VmPlan) -> tuple[PlanFault, ...]:
        running = self._fleet.find(plan.vm)
        _same(running.record.generation, plan.vm, plan.generation)
        grouped = await grouping.apply(running, self._fleet, plan)
        threads = await running.threads()
        pid, group, groups = running.process.pid, running.record.cgroup, self._fleet.host.groups
        faults = await asyncio.to_thread(cpu.apply, plan, pid, threads, group, groups.cpu_lack)
        if self._weights.get(plan.vm) != (pid, plan.weight, group):
            self._weights[plan.vm] = pid, plan.weight, group
            for each in (group, *running.record.former):
                await asyncio.to_thread(lift, each, groups.name)
        return (*grouped, *faults)

    async def cpu(self) -> tuple[VmCpu, ...]:
        """One whose monitor is mute is left out."""
        seen = []
        for running in list(self._fleet.vms.values()):
            try:
                threads = await running.known_threads()
            except DriverError:
                continue
            record, pid = running.record, running.process.pid
            seen.append(await asyncio.to_thread(cpu.measure, record.vm, record.generation, pid, threads, record.cgroup))
        return tuple(seen)

    # --- moves ----------------------------------------------------------------------------------------------------

    async def receive(self, spec: MachineSpec, move: Move = AT_HAND) -> Machine:
        async with self._fleet.lock(spec.vm):
            try:
                return (await self._fleet.receive(spec, move)).machine()
            except (BadSpec, OSError) as error:
                raise CannotStart(f"{spec.vm}: {error}") from error

    async def activate(self, vm: str) -> Machine:
        async with self._fleet.lock(vm):
            running = self._fleet.find(vm)
            await running.mover.activate(self._fleet.host)
            return running.machine()

    async def send(self, vm: str, address: str, move: Move = AT_HAND) -> None:
        async with self._fleet.lock(vm):
            await self._backups.give_up(vm, f"the guest of {vm} is sent to another node")
            await self._fleet.find(vm).mover.send(self._fleet.host, address, move)

    async def recall(self, vm: str) -> Machine:
        async with self._fleet.lock(vm):
            running = self._fleet.find(vm)
            await running.mover.recall()
            return running.machine()

    # --- questions ------------------------------------------------------------------------------------------------

    async def info(self, vm: str, guest_s: float = 1.0) -> VmInfo:
        running = self._fleet.find(vm)
        threads = await running.threads()
        info = VmInfo(
            pid=running.process.pid,
            generation=running.record.generation,
            status=running.status,
            vcpu_threads=threads,
            pcpus=tuple(sorted({p for thread in threads for p in affinity(thread)})),
            sending=await running.mover.progress(),
        )
        if running.status != "running" or not await running.agent.ping(guest_s):
            return info
        try:
            addresses, boot_id = await running.agent.addresses(), await running.agent.boot_id()
        except (GuestSilent, GuestRefused, TooLarge, msgspec.ValidationError, ValueError) as error:
            return msgspec.structs.replace(info, error=f"the guest agent: {error}")
        return msgspec.structs.replace(info, addresses=addresses, boot_id=boot_id, guest_agent=True)

    async def io(self, vm: str) -> IoCount:
        return await io_count.count(self._fleet.find(vm), self._fleet.host.accelerator)

    async def exec(self, vm: str, argv: tuple[str, ...], input: bytes, timeout_s: float) -> ExecResult:
        running = self._fleet.find(vm)
        if not argv:
            raise DriverError("exec needs a program, for instance ('uname', '-r')")
        return await running.agent.exec(argv, input, timeout_s)

    async def console(self, vm: str) -> Console:
        return self._fleet.find(vm).console.attach()

    async def screenshot(self, vm: str) -> bytes:
        async with self._fleet.lock(vm):
            return await self._fleet.find(vm).screenshot()

    async def vitals(self, vm: str) -> VitalCount:
        return await pulse.count(self._fleet.find(vm))

    async def ping(self, vm: str, timeout_s: float) -> bool:
        return await self._fleet.find(vm).agent.ping(timeout_s)

    async def frame(self, vm: str) -> bytes:
        async with self._fleet.lock(vm):
            return await self._fleet.find(vm).frame()

    # --- files ----------------------------------------------------------------------------------------------------

    async def pools(self, files: bool = False) -> tuple[PoolNow, ...]:
        return await self._figures.all(files)

    async def remove_disks(self, vm: str, disks: tuple[Disk, ...]) -> None:
        await self._files.remove_disks(vm, disks)

    async def merge_layers(self, vm: str, disks: tuple[Disk, ...]) -> None:
        await self._files.merge_layers(vm, disks)

    async def import_image(
        self, pool: str, image: str, file: str, format: ImageFormat, sha256: str, boot: DirectBoot | None = None, disk: str = ""
    ) -> ImageInfo:
        into = self._files.for_images(pool)
        return await images.import_image(into, image, file, format, sha256, boot, disk, self._image_tool)

    async def make_image(self, pool: str, image: str, source: DiskSource, boot: DirectBoot | None = None) -> ImageInfo:
        return await self._files.make_image(pool, image, source, boot)

    async def remove_image(self, pool: str, image: str) -> None:
        await images.remove_image(self._files.pool(pool), image)

    # --- backups --------------------------------------------------------------------------------------------------

    async def back_up(self, order: OrderBackup) -> BackupDone:
        return await self._backups.take(order)

    async def remove_backup(self, order: OrderBackupRemoval) -> dict[str, tuple[SavedDisk, ...]]:
        return await self._backups.remove(order)

    async def verify_backup(self, order: OrderBackupVerify) -> Verified:
        return await self._backups.verify(order)

    async def open_backup(self, pool: str, vm: str, backup: str) -> BackupFiles:
        return await self._backups.open_files(pool, vm, backup)

    async def copies(self) -> tuple[CopyNow, ...]:
        return await self._copies.all()

    async def take_key(self, sealed: bytes) -> str:
        return await self._backups.take_key(sealed)

    async def drop_key(self, key: str) -> None:
        await self._backups.drop_key(key)


def _same(running: int, vm: str, wanted: int) -> None:
    """Raises NoSuchVm."""
    if running != wanted:
        raise NoSuchVm(f"generation {running} of {vm} runs here, not {wanted}")


def _prepare(host: Host) -> frozenset[str]:
    """Make the folders; the names of the pools that take O_DIRECT."""
    (host.state / "vms").mkdir(parents=True, exist_ok=True)
    cgroup_left.remember(host.state, host.groups.folders)
    for pool in host.pools.values():
        pool_files.make_pool(pool)
    return frozenset(name for name, pool in host.pools.items() if name in host.remotes or pool_files.can_direct(pool))
