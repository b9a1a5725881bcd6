"""The qemu driver: keeps the Driver contract with real processes. Each VM's ways are in machine.py, its birth in launch.py, its
files in folder.py; here the contract's verbs are joined to them.

    driver = QemuDriver("n1", Path("/var/lib/asv/n1"), {"default": Path("/var/lib/asv/pool")})
    machines = await driver.open()

`state` is this node's own folder and belongs to one driver at a time; pools may be shared by nodes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec

from proto.compute import Capabilities, GoneCause
from proto.io import ImageInfo
from proto.machine import DirectBoot, Disk, DiskFormat, MachineSpec
from proto.node import ExecResult, VmInfo
from services.node.drivers import (
    CannotStart,
    Console,
    DriverError,
    GuestSilent,
    Locked,
    Machine,
    MachineChanged,
    NoSuchVm,
)
from services.node.drivers.changes import Changes
from services.node.drivers.qemu import abilities, images
from services.node.drivers.qemu import disks as pool_files
from services.node.drivers.qemu.argv import BadSpec
from services.node.drivers.qemu.folder import Folder, Record, known
from services.node.drivers.qemu.guest import GuestRefused, TooLarge
from services.node.drivers.qemu.launch import Host, Maker, launch
from services.node.drivers.qemu.machine import RunningVm
from services.node.drivers.qemu.process import Process, host_boot_id
from services.node.drivers.qemu.qemu_img import QemuImg
from services.node.drivers.qemu.qmp import QmpError
from services.node.host.cgroup import Groups

STARTS_AT_ONCE_MAX = 2
"""More at a time start each other late: booting takes a core (measured)."""
ADOPT_S_MAX = 5.0
LOG_SWEEP_S = 30.0
LOCK_WORDS = ('Failed to get "write" lock', 'Failed to get shared "write" lock', "Failed to lock byte")


class QemuDriver:
    """See the module. share: how many embedded nodes divide this host's CPUs and memory. accelerator: `kvm` or `tcg`; what a
    probe at `open` found where nothing is said. bridges: those that VMs may be put into. cache: where the probe's verdict
    is kept (`state` where nothing is said; nodes on one host may share one)."""

    def __init__(
        self,
        node: str,
        state: Path,
        pools: Mapping[str, Path],
        *,
        qemu: str = "qemu-system-x86_64",
        share: int = 1,
        accelerator: str = "",
        bridges: Sequence[str] = (),
        maker: Maker | None = None,
        groups: Groups | None = None,
        cache: Path | None = None,
    ) -> None:
        if not pools:
            raise ValueError("a node needs at least one pool, for instance {'default': Path('/var/lib/asv/pool')}")
        self._share = share
        self._cache = cache or state
        self._found: abilities.Found | None = None
        self._vms: dict[str, RunningVm] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE_MAX)
        self._changes = Changes()
        self._sweep: asyncio.TimerHandle | None = None
        self._host = Host(
            node=node,
            qemu=qemu,
            accelerator=accelerator,
            state=state,
            pools=dict(pools),
            direct=frozenset(),
            bridges=tuple(bridges),
            maker=maker or QemuImg(),
            groups=groups or Groups(name=f"asv-{node}"),
        )

    # --- coming and going -----------------------------------------------------------------------------------------

    async def open(self) -> list[Machine]:
        await asyncio.to_thread(self._prepare)
        if self._found is None:
            self._found = await abilities.find(self._host.qemu, self._cache)
            accelerator = self._host.accelerator or self._found.accelerator.name
            self._host = msgspec.structs.replace(self._host, accelerator=accelerator)
        found = await asyncio.to_thread(known, self._host.state)
        await asyncio.gather(*(self._adopt(vm) for vm in found if vm not in self._vms))
        if self._sweep is None:
            self._sweep_logs()
        return [self._vms[name].machine() for name in sorted(self._vms)]

    async def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for watcher in self._watchers.values():
            watcher.cancel()
        for vm in self._vms.values():
            await vm.close()
            vm.process.release()
        self._vms.clear()
        self._watchers.clear()
        self._changes.end()

    async def changes(self) -> AsyncIterator[MachineChanged]:
        async for change in self._changes.stream():
            yield change

    async def capabilities(self) -> Capabilities:
        assert self._found is not None, "open() comes first"
        host = self._host
        return await asyncio.to_thread(
            abilities.describe,
            self._found,
            share=self._share,
            pools=host.pools,
            direct=host.direct,
            bridges=host.bridges,
            groups=host.groups,
        )

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def start(self, spec: MachineSpec) -> Machine:
        async with self._lock(spec.vm):
            running = self._vms.get(spec.vm)
            if running is not None and running.record.generation == spec.generation:
                return running.machine()
            if running is not None:
                raise Locked(
                    f"generation {running.record.generation} of {spec.vm} still runs on this node; kill it first"
                )
            async with self._starts:
                try:
                    return await self._start(spec)
                except (BadSpec, OSError) as error:
                    raise CannotStart(f"{spec.vm}: {error}") from error

    async def shutdown(self, vm: str) -> None:
        async with self._lock(vm):
            await self._find(vm).shutdown()

    async def kill(self, vm: str) -> None:
        async with self._lock(vm):
            running = self._vms.get(vm)
            if running is not None:
                await running.kill()
                if (watcher := self._watchers.get(vm)) is not None:
                    await asyncio.shield(watcher)

    async def pause(self, vm: str) -> None:
        async with self._lock(vm):
            await self._find(vm).pause()

    async def resume(self, vm: str) -> None:
        async with self._lock(vm):
            await self._find(vm).resume()

    async def reset(self, vm: str) -> None:
        async with self._lock(vm):
            await self._find(vm).reset()

    # --- questions ------------------------------------------------------------------------------------------------

    async def info(self, vm: str) -> VmInfo:
        running = self._find(vm)
        threads = await running.threads()
        info = VmInfo(
            pid=running.process.pid,
            generation=running.record.generation,
            status=running.status,
            vcpu_threads=threads,
            pcpus=tuple(sorted(set().union(*(_affinity(t) for t in threads)))),
        )
        if running.status != "running" or not await running.agent.ping(1.0):
            return info
        try:
            addresses, boot_id = await running.agent.addresses(), await running.agent.boot_id()
        except (GuestSilent, GuestRefused, TooLarge, msgspec.ValidationError, ValueError) as error:
            return msgspec.structs.replace(info, error=f"the guest agent: {error}")
        return msgspec.structs.replace(info, addresses=addresses, boot_id=boot_id, guest_agent=True)

    async def exec(self, vm: str, argv: tuple[str, ...], input: bytes, timeout_s: float) -> ExecResult:
        running = self._find(vm)
        if not argv:
            raise DriverError("exec needs a program, for instance ('uname', '-r')")
        return await running.agent.exec(argv, input, timeout_s)

    async def console(self, vm: str) -> Console:
        return self._find(vm).console.attach()

    # --- files ----------------------------------------------------------------------------------------------------

    async def remove_disks(self, vm: str, disks: tuple[Disk, ...]) -> None:
        for pool in {d.pool for d in disks}:
            own = tuple(d for d in disks if d.pool == pool)
            await asyncio.to_thread(pool_files.remove, self._pool(pool), vm, own)

    async def import_image(
        self, pool: str, image: str, file: str, format: DiskFormat, sha256: str, boot: DirectBoot | None = None
    ) -> ImageInfo:
        return await images.import_image(self._pool(pool), image, file, format, sha256, boot)

    async def remove_image(self, pool: str, image: str) -> None:
        await images.remove_image(self._pool(pool), image)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _pool(self, name: str) -> Path:
        if name not in self._host.pools:
            raise DriverError(f"this node has no pool {name!r}; it has {', '.join(sorted(self._host.pools))}")
        return self._host.pools[name]

    def _lock(self, vm: str) -> asyncio.Lock:
        return self._locks.setdefault(vm, asyncio.Lock())

    def _find(self, vm: str) -> RunningVm:
        running = self._vms.get(vm)
        if running is None:
            raise NoSuchVm(f"no process of {vm} on {self._host.node}")
        return running

    def _prepare(self) -> None:
        (self._host.state / "vms").mkdir(parents=True, exist_ok=True)
        for pool in self._host.pools.values():
            pool_files.make_pool(pool)
        direct = frozenset(name for name, pool in self._host.pools.items() if pool_files.can_direct(pool))
        self._host = msgspec.structs.replace(self._host, direct=direct)

    async def _start(self, spec: MachineSpec) -> Machine:
        birth = asyncio.ensure_future(asyncio.to_thread(launch, self._host, spec))
        try:
            record = await asyncio.shield(birth)
        except asyncio.CancelledError:
            await self._give_up(self._enter(await birth))  # a thread cannot be cancelled: what it made is ended
            raise
        running = self._enter(record)
        try:
            await running.connect()
            await running.run()
        except BaseException as error:
            said = await asyncio.shield(asyncio.ensure_future(self._give_up(running))) or str(error)
            if isinstance(error, QmpError | OSError | DriverError):
                kind = Locked if any(words in said for words in LOCK_WORDS) else CannotStart
                raise kind(f"QEMU of {spec.vm} did not start: {said}") from error
            raise
        self._watch(running)
        return running.machine()

    async def _give_up(self, running: RunningVm) -> str:
        """End a process whose start failed, and all traces of it. Returns what QEMU said."""
        running.process.kill()
        await running.process.ended.wait()
        said = running.folder.tail()
        await self._forget(running)
        return said

    async def _adopt(self, vm: str) -> None:
        """Find an earlier agent's process again. One that never got its `cont` is ended: its start was not finished."""
        folder = Folder(self._host.state, vm)
        record = await asyncio.to_thread(folder.load)
        if record is None:
            return await asyncio.to_thread(folder.remove)
        try:
            if record.boot_id != host_boot_id():
                raise ProcessLookupError("the host was started anew")
            process = Process(record.pid, record.start_ticks)
        except ProcessLookupError as error:
            said = folder.tail()
            sentence = f"QEMU ended while no agent was there ({error})" + (f": {said}" if said else "")
            self._changes.put(MachineChanged(vm, record.generation, "gone", GoneCause.UNKNOWN, sentence))
            self._host.groups.remove(record.cgroup)
            return await asyncio.to_thread(folder.remove)
        running = self._enter(record, process)
        try:
            await running.connect(ADOPT_S_MAX)
        except (QmpError, OSError):
            running.status = "paused"  # alive but mute: told as it is; a kill will be by signal
        self._watch(running)
        if running.status == "prelaunch":
            await self.kill(vm)
        return None

    def _enter(self, record: Record, process: Process | None = None) -> RunningVm:
        process = process or Process(record.pid, record.start_ticks, born=True)
        return RunningVm(Folder(self._host.state, record.vm), record, process, self._changes.put)

    def _watch(self, running: RunningVm) -> None:
        self._vms[running.record.vm] = running
        self._watchers[running.record.vm] = asyncio.create_task(self._until_gone(running))

    async def _until_gone(self, running: RunningVm) -> None:
        await running.process.ended.wait()
        change = running.gone()
        await self._forget(running)
        self._changes.put(change)

    async def _forget(self, running: RunningVm) -> None:
        vm = running.record.vm
        await running.close()
        self._host.groups.remove(running.record.cgroup)
        await asyncio.to_thread(running.folder.remove)
        self._vms.pop(vm, None)
        self._watchers.pop(vm, None)

    def _sweep_logs(self) -> None:
        for running in self._vms.values():
            running.folder.cut_log()
        self._sweep = asyncio.get_running_loop().call_later(LOG_SWEEP_S, self._sweep_logs)


def _affinity(thread: int) -> set[int]:
    try:
        return os.sched_getaffinity(thread)
    except OSError:
        return set()  # it has ended meanwhile
