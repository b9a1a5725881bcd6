"""What the driver suite needs beside the Driver contract: two nodes on one pool, a guest, and ways to break things."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Protocol

import msgspec
import pytest

from proto.images import ImageFormat
from proto.machine import DirectBoot, Disk, DiskFormat, Firmware, MachineSpec, Nic, NicKind, Shape
from services.cluster import groups
from services.node.drivers import Driver, MachineChanged
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.simulated import SimFile, SimHost, SimParams, SimPool, SimulatedDriver
from tests.contract.settled import Kept
from tests.contract.store_rigs import NbdRig
from tests.guests import tiny_image

EXPORT_MIB = 64 << 10
"""sparse: of an export that backups lie in"""
WAIT_S_MAX = 20.0
GUEST_S_MAX = 45.0


def machine_spec(vm: str = "web-1", generation: int = 1, boot: DirectBoot | None = None) -> MachineSpec:
    return MachineSpec(
        vm=vm,
        generation=generation,
        protected=False,
        shape=Shape(
            vcpus=1,
            memory_mib=160,
            vcpus_max=2,
            memory_max_mib=512,
            machine="pc-q35-7.2",
            cpu_model="qemu64",
            firmware=Firmware.DIRECT,
            uuid="6c0e5a4e-3f1d-5d5a-9d7e-0f6f3f0a1b2c",
        ),
        disks=(
            Disk(
                name="root",
                pool="default",
                file=f"{vm}-root.qcow2",
                size_mib=256,
                format=DiskFormat.QCOW2,
                serial=f"{vm}-root",
                slot=0,
                image="tiny",
            ),
        ),
        nics=(Nic(name="lan", kind=NicKind.USER, mac="52:54:00:aa:bb:01", slot=8),),
        boot=boot
        or DirectBoot(kernel="vmlinux", initrd="initrd", cmdline="console=ttyS0 quiet panic=0 no_timer_check"),
        boot_image="tiny",
    )


class Rig(Protocol):
    """kernel: what `uname -r` says inside; typed: a line for the console, and what then comes back; real: the guest is one."""

    real: bool
    kernel: bytes
    typed: tuple[bytes, bytes]

    def driver(self, node: str = "n1") -> Driver:
        """A new agent's driver on that node: same state, same pool."""
        ...

    def apart(self, node: str) -> Driver:
        """As `driver`, on a node with a pool of its own that has the image too, and that others reach by network."""
        ...

    def disks(self, node: str) -> list[str]:
        """Files in that node's pool: disks, whole or not."""
        ...

    def spec(self, vm: str = "web-1", generation: int = 1) -> MachineSpec: ...
    async def settled(self, driver: Driver, spec: MachineSpec) -> None:
        """It runs there, and its guest has booted and come to rest (settled.py)."""
        ...

    def unstartable(self, node: str, spec: MachineSpec) -> MachineSpec:
        """The same, but from now on QEMU will refuse it on that node."""
        ...

    async def crash(self, driver: Driver, vm: str) -> None: ...
    def left_over(self, node: str) -> list[str]:
        """Processes and files of VMs that are there on that node."""
        ...

    def incoming(self, name: str, backing: str = "") -> str:
        """Puts a qcow2 of 8 MiB into `incoming`, on a backing file if one is named. Its sha256."""
        ...

    async def write(self, driver: Driver, file: str, data: bytes) -> None:
        """Into a file in the guest's memory."""
        ...

    async def read(self, driver: Driver, file: str) -> bytes: ...


class SimRig:
    real = False
    kernel = b"simulated\n"
    typed = (b"hello\n", b"hello")

    def __init__(self) -> None:
        self.pool = SimPool()
        params = SimParams(start_us=20_000, jitter_us=5_000, boot_us=50_000, shutdown_us=50_000, kill_us=5_000, home_us=300_000)
        self.hosts = {node: SimHost(node, params, Random(7), self.pool) for node in ("n1", "n2")}

    def driver(self, node: str = "n1") -> Driver:
        return SimulatedDriver(self.hosts[node])

    def apart(self, node: str) -> Driver:
        if self.hosts[node].pool is self.pool:
            self.hosts[node].pool = self.pool.beside(node)
        return self.driver(node)

    def disks(self, node: str) -> list[str]:
        return sorted(key.rpartition("/")[2] for key in self.hosts[node].pool.disks)

    def spec(self, vm: str = "web-1", generation: int = 1) -> MachineSpec:
        return machine_spec(vm, generation)

    async def settled(self, driver: Driver, spec: MachineSpec) -> None:
        await driver.start(spec)
        await guest_up(driver, spec.vm)

    def unstartable(self, node: str, spec: MachineSpec) -> MachineSpec:
        self.hosts[node].params = SimParams(start_fails=1.0)
        return spec

    async def crash(self, driver: Driver, vm: str) -> None:
        assert isinstance(driver, SimulatedDriver)
        driver.host.crash(vm, 0)
        driver.wake()

    async def write(self, driver: Driver, file: str, data: bytes) -> None:
        self.kept = (file, data)

    async def read(self, driver: Driver, file: str) -> bytes:
        """A simulated guest has no files: it gives back what it is given."""
        assert self.kept[0] == file
        return (await driver.exec("web-1", ("cat",), self.kept[1], 10.0)).stdout

    def left_over(self, node: str) -> list[str]:
        held = [key for key, holders in self.pool.holders.items() for h in holders if h.node == node]
        return [*self.hosts[node].vms, *held]

    def incoming(self, name: str, backing: str = "") -> str:
        digest = hashlib.sha256(name.encode()).hexdigest()
        self.pool.incoming[name] = SimFile(ImageFormat.QCOW2, 8, digest, backing)
        return digest


class QemuRig:
    real = True
    typed = (b"echo hel''lo\n", b"hello")

    def __init__(self, top: Path, tiny: Path, far: NbdRig | None = None) -> None:
        """far: of the pool that backups lie in, where that is no folder."""
        self.far = far
        manifest = json.loads((tiny / "manifest.json").read_text(encoding="utf-8"))
        self.kernel = manifest["kernel"].encode() + b"\n"
        self.boot = msgspec.convert(manifest["boot"], DirectBoot)
        self.top = top
        self.pool = top / "pool"
        shutil.copytree(tiny, self.pool / "images" / "tiny", copy_function=_linked)

    def driver(
        self, node: str = "n1", bridges: tuple[str, ...] = (), moves_at: str = "", namespace: Path | None = None
    ) -> QemuDriver:
        probes = self.top.parent / "probes"
        pools, remotes = {"default": self.pool}, None
        if self.far is not None:
            pools, remotes = pools | self.far.pools(), self.far.remotes()
        return QemuDriver(
            node, self.top / node, pools, share=2, cache=probes, bridges=bridges, moves_at=moves_at,
            network_namespace=namespace, remotes=remotes,
        )  # fmt: skip

    @property
    def backup_pool(self) -> str:
        return "default" if self.far is None else "other"

    @property
    def backups(self) -> Path:
        """Where backups lie, or what says where."""
        return (self.pool if self.far is None else self.far.leases) / "backups"

    def pool_of(self, node: str) -> Path:
        return self.top / f"pool-{node}" if (self.top / f"pool-{node}").exists() else self.pool

    def apart(self, node: str) -> QemuDriver:
        own = self.top / f"pool-{node}"
        if not own.exists():
            shutil.copytree(self.pool / "images", own / "images", copy_function=_linked)
        probes = self.top.parent / "probes"
        return QemuDriver(node, self.top / node, {"default": own}, share=2, cache=probes, moves_at="127.0.0.1")

    def disks(self, node: str) -> list[str]:
        return sorted(path.name for path in (self.pool_of(node) / "disks").iterdir())

    def spec(self, vm: str = "web-1", generation: int = 1) -> MachineSpec:
        return machine_spec(vm, generation, self.boot)

    async def settled(self, driver: Driver, spec: MachineSpec) -> None:
        kept = Kept(self.top.parent / "settled", spec)
        if not kept.there:
            await self._boot(kept, spec)
        await kept.back(driver, spec)

    async def _boot(self, kept: Kept, spec: MachineSpec) -> None:
        """In a pool and on a node of its own."""
        aside = QemuRig(self.top / "aside", self.pool / "images" / "tiny")
        driver = aside.driver()
        try:
            await driver.open()
            await driver.start(spec)
            await guest_up(driver, spec.vm)
            await kept.put(driver, spec)
        finally:
            await driver.close()
            aside.end()

    def unstartable(self, node: str, spec: MachineSpec) -> MachineSpec:
        return msgspec.structs.replace(spec, shape=msgspec.structs.replace(spec.shape, cpu_model="no-such-model"))

    async def crash(self, driver: Driver, vm: str) -> None:
        os.kill((await driver.info(vm)).pid, signal.SIGSEGV)

    async def write(self, driver: Driver, file: str, data: bytes) -> None:
        done = await driver.exec("web-1", ("sh", "-c", f"cat > {file}"), data, 10.0)
        assert (done.exit_code, done.error) == (0, ""), done

    async def read(self, driver: Driver, file: str) -> bytes:
        return (await driver.exec("web-1", ("cat", file), b"", 10.0)).stdout

    def left_over(self, node: str) -> list[str]:
        folders = [str(p) for p in (self.top / node / "vms").glob("*")]
        return folders + [str(pid) for pid in self.processes(node)]

    def incoming(self, name: str, backing: str = "") -> str:
        file = self.pool / "incoming" / name
        stand = ["-F", "qcow2", "-b", backing] if backing else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *stand, str(file), "8M"], check=True)
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def processes(self, node: str = "") -> list[int]:
        """QEMU processes that work in a folder of this rig (of that node)."""
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str((proc / "cwd").readlink()).startswith(str(self.top / node)):
                    found.append(int(proc.name))
        return found

    def end(self) -> None:
        """Nothing outlives a test, whatever became of its driver."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + WAIT_S_MAX
        while not groups.remove(self.top.glob("*/groups")) and time.monotonic() < end:
            time.sleep(0.01)  # the kernel takes its time to take a dead process out


def _linked(source: str, target: str) -> None:
    """The same file under another name, where one file system has both: an image's files are only read."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def rig_of(kind: str, top: Path, exports: Path | None = None) -> Iterator[SimRig | QemuRig]:
    """exports: the folder of the files that an NBD server serves."""
    if kind == "simulated":
        yield SimRig()
        return
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    far = NbdRig(top, ("asv",), EXPORT_MIB, exports, backups="asv") if kind == "qemu-nbd" else None
    qemu = QemuRig(top, tiny_image(), far)
    try:
        yield qemu
    finally:
        qemu.end()
        if far is not None:
            far.end()


async def told(changes: AsyncIterator[MachineChanged], status: str) -> MachineChanged:
    """The next change to that status; what comes before it is skipped."""
    async with asyncio.timeout(WAIT_S_MAX):
        async for change in changes:
            if change.status == status:
                return change
    raise AssertionError(f"the changes ended without {status}")


async def guest_up(driver: Driver, vm: str = "web-1") -> None:
    """Until the guest agent answers: the question waits in the channel until somebody reads it."""
    assert (await driver.exec(vm, ("true",), b"", GUEST_S_MAX)).exit_code == 0
