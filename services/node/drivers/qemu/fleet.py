"""The QEMU processes of one node: born, adopted, watched until they are gone, forgotten with all their traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from proto.compute import GoneCause
from proto.machine import MachineSpec
from proto.node import CopyNow
from services.node.drivers import AT_HAND, CannotStart, DriverError, Locked, MachineChanged, Move, NoSuchVm
from services.node.drivers.qemu.ends import explained
from services.node.drivers.qemu.fit import born
from services.node.drivers.qemu.folder import Folder, Record, known
from services.node.drivers.qemu.launch import Host, launch
from services.node.drivers.qemu.machine import RunningVm
from services.node.drivers.qemu.process import Process, host_boot_id
from services.node.drivers.qemu.qmp import QmpError

STARTS_AT_ONCE_MAX = 2
"""More at a time start each other late: booting takes a core (measured)."""
ADOPT_S_MAX = 5.0
SWEEP_S = 15.0
LOCK_WORDS = ('Failed to get "write" lock', 'Failed to get shared "write" lock', "Failed to lock byte")


class Fleet:
    """`vms` are those that run, by name. Verbs about one VM are said under its `lock`."""

    def __init__(self, host: Host, tell: Callable[[MachineChanged], None]) -> None:
        self.host = host
        self.vms: dict[str, RunningVm] = {}
        self._tell = tell
        self._locks: dict[str, asyncio.Lock] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE_MAX)
        self._sweeper: asyncio.Task[None] | None = None
        self._groups_left: set[str] = set()

    def lock(self, vm: str) -> asyncio.Lock:
        return self._locks.setdefault(vm, asyncio.Lock())

    def find(self, vm: str) -> RunningVm:
        """Raises NoSuchVm."""
        running = self.vms.get(vm)
        if running is None:
            raise NoSuchVm(f"no process of {vm} on {self.host.node}")
        return running

    async def adopt(self) -> None:
        """Find the processes of an earlier agent."""
        found = await asyncio.to_thread(known, self.host.state)
        await asyncio.gather(*(self._adopt(vm) for vm in found))
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def start(self, spec: MachineSpec) -> RunningVm:
        """Raises CannotStart and its children; then nothing is left."""
        return await self._begin(spec, incoming=False)

    async def receive(self, spec: MachineSpec, move: Move) -> RunningVm:
        """A process that waits for its guest. As `start`."""
        return await self._begin(spec, incoming=True, move=move)

    async def _begin(self, spec: MachineSpec, *, incoming: bool, move: Move = AT_HAND) -> RunningVm:
        running = self.vms.get(spec.vm)
        if running is not None and running.record.generation == spec.generation:
            return running
        if running is not None:
            raise Locked(f"generation {running.record.generation} of {spec.vm} still runs on this node; kill it first")
        async with self._starts:
            running = await self._born(spec, incoming, move)
            try:
                await running.connect()
                await born(running, spec)
                await (running.mover.receive(self.host, move) if incoming else running.run())
            except BaseException as error:
                said = await asyncio.shield(asyncio.ensure_future(self._give_up(running))) or str(error)
                if isinstance(error, QmpError | OSError | DriverError):
                    kind = Locked if any(words in said for words in LOCK_WORDS) else CannotStart
                    raise kind(f"QEMU of {spec.vm} did not start: {said}") from error
                raise
        self._watch(running)
        return running

    async def kill(self, vm: str) -> None:
        """Returns when the process is gone and its end is told."""
        if (running := self.vms.get(vm)) is not None:
            watcher = self._watchers[vm]
            await running.kill()
            await asyncio.shield(watcher)

    async def homecoming(self) -> tuple[CopyNow, ...]:
        """Recovered disks whose data comes home, of VMs that run."""
        return tuple(copy for running in self.vms.values() for copy in running.homing.copies())

    async def close(self) -> None:
        """Let go of all; the processes run on."""
        tasks = [*self._watchers.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for running in self.vms.values():
            await running.close()
            running.process.release()
        self.vms.clear()
        self._watchers.clear()
        self._sweeper = None

    async def _born(self, spec: MachineSpec, incoming: bool, move: Move) -> RunningVm:
        birth = asyncio.ensure_future(asyncio.to_thread(launch, self.host, spec, incoming, move))
        try:
            record = await asyncio.shield(birth)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: what it made is ended.
            await self._give_up(self._entered(await birth))
            raise
        return self._entered(record)

    def _entered(self, record: Record) -> RunningVm:
        process = Process(record.pid, record.start_ticks, born=True)
        return RunningVm(Folder(self.host.state, record.vm), record, process, self._tell)

    async def _give_up(self, running: RunningVm) -> str:
        """End a process whose start failed, and all traces of it. Returns what QEMU said."""
        running.process.kill()
        await running.process.ended.wait()
        said = running.folder.tail()
        await self._forget(running)
        return said

    async def _adopt(self, vm: str) -> None:
        """One that never got its `cont` is ended: its start was not finished, and is not to be finished by chance."""
        async with self.lock(vm):
            folder = Folder(self.host.state, vm)
            record = None if vm in self.vms else await asyncio.to_thread(folder.load)
            if vm in self.vms:
                return
            if record is None:
                await asyncio.to_thread(folder.remove)
                return
            try:
                if record.boot_id != host_boot_id():
                    raise ProcessLookupError("the host was started anew")
                process = Process(record.pid, record.start_ticks)
            except ProcessLookupError as error:
                await self._bury(folder, record, error)
                return
            running = RunningVm(folder, record, process, self._tell)
            try:
                await running.connect(ADOPT_S_MAX)
            except (QmpError, OSError):
                running.status = "paused"  # alive but mute, so it does not run; asked again by the sweep
            self._watch(running)
            running.freezer.see_to()
            with suppress(DriverError):  # where it is mute nothing can be ended; the next backup sees to it
                await running.backups.clear(running)
            if running.status == "prelaunch":
                await self.kill(vm)

    async def _bury(self, folder: Folder, record: Record, why: Exception) -> None:
        said = folder.tail()
        sentence = f"QEMU ended while no agent was there ({why})" + (f": {said}" if said else "")
        gone = MachineChanged(record.vm, record.generation, "gone", GoneCause.UNKNOWN, sentence)
        self._tell(explained(gone, self.host.groups, record.cgroup))
        self._leave(record.groups)
        await asyncio.to_thread(folder.remove)

    def _watch(self, running: RunningVm) -> None:
        self.vms[running.record.vm] = running
        self._watchers[running.record.vm] = asyncio.create_task(self._until_gone(running))

    async def _until_gone(self, running: RunningVm) -> None:
        await running.process.ended.wait()
        change = explained(running.gone(), self.host.groups, running.record.cgroup)
        await self._forget(running)
        self.vms.pop(running.record.vm, None)
        self._watchers.pop(running.record.vm, None)
        self._tell(change)

    async def _forget(self, running: RunningVm) -> None:
        await running.close()
        self._leave(running.record.groups)
        await asyncio.to_thread(running.folder.remove)

    def _leave(self, group: str) -> None:
        """The kernel may still be taking the last thread out of it: then the sweep removes it."""
        if not self.host.groups.remove(group):
            self._groups_left.add(group)

    async def _sweep(self) -> None:
        """Every SWEEP_S: logs are cut, mute monitors asked again, left-over groups removed."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for running in list(self.vms.values()):
                await asyncio.to_thread(running.folder.cut_log)
                async with self.lock(running.record.vm):
                    await running.revive(ADOPT_S_MAX)
            self._groups_left = {group for group in self._groups_left if not self.host.groups.remove(group)}


def with_direct(host: Host, direct: frozenset[str], accelerator: str) -> Host:
    """The host, with what was found out at `open`."""
    return msgspec.structs.replace(host, direct=direct, accelerator=host.accelerator or accelerator)
