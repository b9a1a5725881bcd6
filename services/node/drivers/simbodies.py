"""Simulated VMs with bodies: each is a real small process beside the guest in the agent's memory, with a record as a QEMU's, the
lease record beside the disks and the pool's own lock. So watchdogs guard them, `lab kill` hits them, and no two nodes run one,
as it is with real ones. A body ends with its agent (which has the other end of its pipe), and its guest with the body.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from proto.machine import MachineSpec
from services.node.drivers import AT_HAND, CannotStart, Machine, Move
from services.node.drivers.qemu import lease
from services.node.drivers.qemu.folder import Folder, Record, known
from services.node.drivers.qemu.process import host_boot_id, start_ticks
from services.node.drivers.simhost import SimHost
from services.node.drivers.simulated import SimulatedDriver

BODY = ("cat",)
"""reads what never comes, until its agent is gone"""


class Body:
    def __init__(self, process: subprocess.Popen[bytes], spec: MachineSpec) -> None:
        self.process = process
        self.spec = spec
        self.pidfd = os.pidfd_open(process.pid)
        self.lock = -1
        """where its guest came in: the lock, which the process could not inherit"""


class Bodies:
    """Of one node. Blocking."""

    def __init__(self, node: str, state: Path, pool: Path) -> None:
        self.all: dict[str, Body] = {}
        self._node = node
        self._state = state
        self._pool = pool
        for vm in known(state):
            Folder(state, vm).remove()  # of an earlier agent, with which they ended

    def born(self, spec: MachineSpec, *, incoming: bool) -> Body:
        """Raises CannotStart and its children."""
        lock = -1 if incoming else self._leased(spec)
        folder = Folder(self._state, spec.vm)
        try:
            process = subprocess.Popen(
                BODY, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
                pass_fds=() if incoming else (lock,),
            )  # fmt: skip
            folder.make(None)
            folder.save(Record(
                vm=spec.vm, generation=spec.generation, pid=process.pid, start_ticks=start_ticks(process.pid) or 0,
                boot_id=host_boot_id(), protected=spec.protected,
            ))  # fmt: skip
        except OSError as error:
            raise CannotStart(f"{spec.vm}: its body cannot be made: {error}") from error
        finally:
            if lock >= 0:
                os.close(lock)
        return Body(process, spec)

    def activate(self, vm: str) -> None:
        """Its guest has come: from here on it is this node's. Raises CannotStart's children."""
        if (body := self.all.get(vm)) is not None and body.lock < 0:
            body.lock = self._leased(body.spec)

    def guard(self, spec: MachineSpec) -> None:
        """Its record says from now on whether it is guarded. Raises OSError."""
        folder = Folder(self._state, spec.vm)
        if (record := folder.load()) is not None and record.protected != spec.protected:
            folder.save(msgspec.structs.replace(record, protected=spec.protected))

    def end(self, vm: str) -> None:
        """Also where there is none any more."""
        if (body := self.all.pop(vm, None)) is not None:
            body.process.kill()
            body.process.wait()
            for fd in (body.pidfd, body.lock):
                if fd >= 0:
                    os.close(fd)
            Folder(self._state, vm).remove()

    def _leased(self, spec: MachineSpec) -> int:
        lease.take(self._pool, lease.Lease(spec.vm, spec.generation, self._node, host_boot_id()))
        return lease.hold(self._pool, spec.vm)


class EmbodiedDriver(SimulatedDriver):
    """Keeps the Driver contract as the simulated one does."""

    def __init__(self, host: SimHost, bodies: Bodies) -> None:
        super().__init__(host)
        self._bodies = bodies

    async def start(self, spec: MachineSpec) -> Machine:
        return await self._made(spec, lambda: super(EmbodiedDriver, self).start(spec), incoming=False)

    async def receive(self, spec: MachineSpec, move: Move = AT_HAND) -> Machine:
        return await self._made(spec, lambda: super(EmbodiedDriver, self).receive(spec, move), incoming=True)

    async def activate(self, vm: str) -> Machine:
        await asyncio.to_thread(self._bodies.activate, vm)
        return await super().activate(vm)

    async def fit(self, spec: MachineSpec) -> Machine:
        machine = await super().fit(spec)
        await asyncio.to_thread(self._bodies.guard, spec)
        return machine

    async def close(self) -> None:
        await super().close()
        for body in self._bodies.all.values():
            asyncio.get_running_loop().remove_reader(body.pidfd)

    async def _made(self, spec: MachineSpec, make: Callable[[], Awaitable[Machine]], *, incoming: bool) -> Machine:
        if spec.vm in self._bodies.all:
            return await make()
        body = await asyncio.to_thread(self._bodies.born, spec, incoming=incoming)
        self._bodies.all[spec.vm] = body
        asyncio.get_running_loop().add_reader(body.pidfd, self._ended, spec.vm)
        try:
            return await make()
        except BaseException:
            self._bury(spec.vm)
            raise

    def _turn(self) -> None:
        super()._turn()
        for vm in [vm for vm in self._bodies.all if vm not in self.host.vms and (vm, "start") not in self._verbs]:
            if (vm, "receive") not in self._verbs:
                self._bury(vm)

    def _ended(self, vm: str) -> None:
        """Killed from outside: its guest with it."""
        self._bury(vm)
        if vm in self.host.vms:
            self.host.crash(vm, self._now_us())
            self.wake()

    def _bury(self, vm: str) -> None:
        if (body := self._bodies.all.get(vm)) is not None:
            asyncio.get_running_loop().remove_reader(body.pidfd)
            self._bodies.end(vm)
