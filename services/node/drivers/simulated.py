"""The simulated driver: SimHost (simhost.py) in real time. It ships with the product: `make up` on a machine without QEMU, the
world, what-if and the scale benchmarks use it. Its VMs end with the process that made the SimHost; a second driver around
the same SimHost adopts them, as the next agent does with QEMU's.

The guest is canned: `uname -r` says `simulated`, `cat` gives back its input, `echo` its arguments, `true`/`false` their codes;
the console greets after the boot and echoes.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from random import Random

import msgspec

from libs.common.clock import Clock, SystemClock
from proto.backups import BackupDone, SavedDisk
from proto.compute import Capabilities
from proto.images import DiskSource
from proto.io import ImageFormat, ImageInfo
from proto.machine import DirectBoot, Disk, Firmware, MachineSpec
from proto.networks import Bridge
from proto.node import CopyNow, ExecResult, OrderBackup, OrderBackupRemoval, OrderBackupVerify, VmInfo
from proto.plan import PlanFault, VmPlan
from proto.space import PoolNow
from services.node.drivers import (
    AT_HAND,
    Console,
    GuestSilent,
    Machine,
    MachineChanged,
    Move,
    NoSuchVm,
    Verified,
    VmCpu,
    simbackups,
    simfiles,
    simhome,
    simio,
    simkeys,
    simpulse,
)
from services.node.drivers.backup_files import BackupFiles
from services.node.drivers.changes import Changes
from services.node.drivers.copying import Copies
from services.node.drivers.io import IoCount
from services.node.drivers.sim_memory import SimMemory
from services.node.drivers.simhost import SimAct, SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simpool import SimFile, SimPool
from services.node.drivers.simtaking import SimTaking
from services.node.drivers.simvm import SimDone, SimVm
from services.node.drivers.vitals import VitalCount
from services.node.host import swap

__all__ = ["SimAct", "SimDone", "SimFile", "SimHost", "SimParams", "SimPool", "SimVm", "SimulatedDriver"]

CONSOLE_BYTES_MAX = 64 * 1024


class SimConsole:
    """A serial port whose guest says what it hears."""

    def __init__(self, greeting: bytes) -> None:
        self._bytes = bytearray(greeting)
        self._ready = asyncio.Event()
        self._ready.set()
        self._closed = False

    async def read(self) -> bytes:
        await self._ready.wait()
        data = bytes(self._bytes)
        self._bytes.clear()
        if not self._closed:
            self._ready.clear()
        return data

    async def write(self, data: bytes) -> None:
        self._bytes += data[: CONSOLE_BYTES_MAX - len(self._bytes)]
        self._ready.set()

    async def close(self) -> None:
        self._closed = True
        self._ready.set()


class SimulatedDriver:
    """Keeps the Driver contract around a SimHost."""

    def __init__(self, host: SimHost | None = None, clock: Clock | None = None) -> None:
        self.host = host if host is not None else SimHost("sim", SimParams(), Random(0))
        self._clock = clock or SystemClock()
        self._changes = Changes()
        self.memory = SimMemory(self.host)
        self._backups = SimTaking(lambda: self.host, self._now_us, self._clock.now_us)
        self._copies = Copies()
        self._copies.looks += [self._backups.copies, self._homecoming]
        self._verbs: dict[tuple[str, str], asyncio.Future[Machine | None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._consoles: dict[str, list[SimConsole]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * 1e6)

    async def open(self) -> list[Machine]:
        self._closed = False
        machines = self.host.adopt()
        self._arm()
        return machines

    async def capabilities(self) -> Capabilities:
        swap_mib, swap_memory_mib = swap.for_vms(self.host.swaps)
        return Capabilities(
            accelerator="simulated",
            cpu_model="qemu64",
            pcpus=self.host.params.pcpus,
            memory_mib=self.host.params.memory_mib,
            qemu_version="",
            machine="pc-q35-7.2",
            driver="simulated",
            cells=self.host.params.pcpus_of_cells,
            pools=("default",),
            bridges=self.host.bridges,
            tap_filter=True,
            not_enforced=("everything: VMs are simulated", *swap.unfit(self.host.swaps)),
            swap_mib=swap_mib,
            swap_memory_mib=swap_memory_mib,
            balloon=True,
            memory_areas="v2",
            pool_ids={"default": self.host.pool.id},
            lease_pools=("default",),
            firmware=tuple(Firmware),
            backup_keys=tuple(sorted(self.host.keys)),
            move_key=simkeys.public(self.host.node),
        )

    async def bridges(self) -> tuple[Bridge, ...]:
        return self.host.bridges

    async def start(self, spec: MachineSpec) -> Machine:
        self._backups.give_up(spec.vm, f"{spec.vm} was started")
        return await self._machine(SimAct(spec.vm, "start", spec))

    async def shutdown(self, vm: str) -> None:
        await self._do(SimAct(vm, "shutdown"))

    async def kill(self, vm: str) -> None:
        if vm in self.host.vms:
            self._backups.give_up(vm, f"{vm} was powered off")
        await self._do(SimAct(vm, "kill"))

    async def pause(self, vm: str) -> None:
        await self._do(SimAct(vm, "pause"))

    async def resume(self, vm: str) -> None:
        await self._do(SimAct(vm, "resume"))

    async def reset(self, vm: str) -> None:
        await self._do(SimAct(vm, "reset"))

    async def schedule(self, plan: VmPlan) -> tuple[PlanFault, ...]:
        return self.host.schedule(plan, self._now_us())

    async def cpu(self) -> tuple[VmCpu, ...]:
        return self.host.cpu_times(self._now_us())

    async def fit(self, spec: MachineSpec) -> Machine:
        return await self._machine(SimAct(spec.vm, "fit", spec))

    async def look(self, vm: str) -> Machine:
        return await self._machine(SimAct(vm, "look"))

    async def receive(self, spec: MachineSpec, move: Move = AT_HAND) -> Machine:
        return await self._machine(SimAct(spec.vm, "receive", spec, move=move))

    async def activate(self, vm: str) -> Machine:
        return await self._machine(SimAct(vm, "activate"))

    async def send(self, vm: str, address: str, move: Move = AT_HAND) -> None:
        self._backups.give_up(vm, f"the guest of {vm} is sent to another node")
        await self._do(SimAct(vm, "send", address=address, move=move))

    async def recall(self, vm: str) -> Machine:
        return await self._machine(SimAct(vm, "recall"))

    async def info(self, vm: str, guest_s: float = 1.0) -> VmInfo:
        found = self._find(vm)
        return VmInfo(
            pid=found.pid,
            generation=found.spec.generation,
            status=found.status,
            boot_id=f"{self.host.boot_id}-{found.pid}-{found.boots}",
            vcpu_threads=tuple(found.pid + 1 + i for i in range(found.spec.shape.vcpus)),
            addresses=tuple(f"10.0.2.{15 + i}" for i in range(len(found.spec.nics))),
            guest_agent=self.host.booted(vm, self._now_us()),
        )

    async def io(self, vm: str) -> IoCount:
        return simio.count(self._find(vm), self._now_us())

    async def exec(self, vm: str, argv: tuple[str, ...], input: bytes, timeout_s: float) -> ExecResult:
        self._find(vm)
        if not self.host.booted(vm, self._now_us()):
            await asyncio.sleep(min(timeout_s, self.host.params.boot_us / 1e6))
            if not self.host.booted(vm, self._now_us()):
                raise GuestSilent(f"the guest agent of {vm} did not answer within {timeout_s} s")
        match argv:
            case ("uname", "-r"):
                return ExecResult(stdout=b"simulated\n")
            case ("echo", *words):
                return ExecResult(stdout=" ".join(words).encode() + b"\n")
            case ("cat",):
                return ExecResult(stdout=input)
            case ("true",):
                return ExecResult()
            case ("false",):
                return ExecResult(exit_code=1)
        return ExecResult(
            exit_code=127, error=f"{argv[0]}: a simulated guest knows uname -r, echo, cat, true and false"
        )

    async def console(self, vm: str) -> Console:
        self._find(vm)
        console = SimConsole(f"simulated guest {vm}\r\n".encode())
        self._consoles.setdefault(vm, []).append(console)
        return console

    async def screenshot(self, vm: str) -> bytes:
        self._find(vm)
        return _one_dark_pixel()

    async def vitals(self, vm: str) -> VitalCount:
        return self.host.vitals(vm, self._now_us())

    async def ping(self, vm: str, timeout_s: float) -> bool:
        return self.host.answers(vm, self._now_us())

    async def frame(self, vm: str) -> bytes:
        self._find(vm)
        return simpulse.DARK

    async def pools(self, files: bool = False) -> tuple[PoolNow, ...]:
        return (self.host.pool.now(files),)

    async def remove_disks(self, vm: str, disks: tuple[Disk, ...]) -> None:
        self.host.pool.remove(disks)

    async def merge_layers(self, vm: str, disks: tuple[Disk, ...]) -> None:
        self.host.pool.merge_at_rest(vm, disks)

    async def import_image(
        self, pool: str, image: str, file: str, format: ImageFormat, sha256: str, boot: DirectBoot | None = None,
        disk: str = "",
    ) -> ImageInfo:  # fmt: skip
        return self.host.pool.import_image(pool, image, file, format, sha256)

    async def make_image(self, pool: str, image: str, source: DiskSource, boot: DirectBoot | None = None) -> ImageInfo:
        return self.host.pool.make_image(pool, image, source)

    async def remove_image(self, pool: str, image: str) -> None:
        self.host.pool.remove_image(pool, image)

    async def back_up(self, order: OrderBackup) -> BackupDone:
        return await self._backups.take(order)

    async def remove_backup(self, order: OrderBackupRemoval) -> dict[str, tuple[SavedDisk, ...]]:
        return simbackups.remove(self.host, order)

    async def verify_backup(self, order: OrderBackupVerify) -> Verified:
        return simbackups.verify(self.host.pool, order)

    async def take_key(self, sealed: bytes) -> str:
        return simkeys.take(self.host, sealed)

    async def drop_key(self, key: str) -> None:
        self.host.keys.discard(key)

    async def open_backup(self, pool: str, vm: str, backup: str) -> BackupFiles:
        return simfiles.open_files(self.host, pool, vm, backup)

    async def _homecoming(self) -> tuple[CopyNow, ...]:
        return simhome.copies(self.host, self._now_us())

    async def copies(self) -> tuple[CopyNow, ...]:
        return await self._copies.all()

    async def changes(self) -> AsyncIterator[MachineChanged]:
        async for change in self._changes.stream():
            yield change

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.host.drop_agent()
        for waiting in self._verbs.values():
            waiting.cancel()
        self._changes.end()

    def wake(self) -> None:
        """Look again at what is due: to be called after a fault that was played by hand on the host."""
        self._arm()

    def _find(self, vm: str) -> SimVm:
        found = self.host.vms.get(vm)
        if found is None or found.starting:
            raise NoSuchVm(f"no process of {vm} on {self.host.node}")
        return found

    async def _machine(self, act: SimAct) -> Machine:
        machine = await self._do(act)
        assert machine is not None
        return machine

    async def _do(self, act: SimAct) -> Machine | None:
        async with self._locks.setdefault(act.vm, asyncio.Lock()):
            ended: asyncio.Future[Machine | None] = asyncio.get_running_loop().create_future()
            self._verbs[act.vm, act.verb] = ended
            self.host.begin(act, self._now_us())
            self._arm()
            return await ended

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        next_us = self.host.next_us()
        if next_us is None or self._closed:
            return
        wait_s = max(0, next_us - self._now_us()) / 1e6
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._turn)

    def _turn(self) -> None:
        for happened in self.host.due(self._now_us()):
            if isinstance(happened, MachineChanged):
                # told in the clock that others compare with theirs
                at_us = self._clock.now_us() if happened.paused_us else 0
                self._changes.put(msgspec.structs.replace(happened, paused_us=at_us))
                if happened.status == "gone":
                    for console in self._consoles.pop(happened.vm, ()):
                        asyncio.get_running_loop().create_task(console.close())
                continue
            waiting = self._verbs.pop((happened.vm, happened.verb), None)
            if waiting is None or waiting.done():
                continue
            if happened.error is not None:
                waiting.set_exception(happened.error)
            else:
                waiting.set_result(happened.machine)
        self._arm()


def _one_dark_pixel() -> bytes:
    """A PNG of 1 by 1, grey, 8 bits: a simulated guest's screen."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
