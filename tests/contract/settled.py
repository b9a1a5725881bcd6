"""Guests that are at rest already, for tests that are not about how a guest comes up. One of each kind boots; when it has settled,
its memory and its disks are put aside. Each test has it back from there, by the way on which guests come in from other nodes."""

from __future__ import annotations

import hashlib
import os
import shutil
from asyncio import timeout, to_thread
from collections.abc import Iterable
from pathlib import Path

import msgspec

from proto.machine import Disk, MachineSpec
from services.node.drivers import Driver
from services.node.drivers.qemu import moving
from services.node.drivers.qemu.driver import QemuDriver

SETTLED = "until [ -e /run/settled ]; do sleep 0.1; done"
SETTLED_S_MAX = 60.0
BYTES_PER_S = 1 << 30


class Kept:
    """One kind of guest in `folder`: its memory, and the files of its disks."""

    def __init__(self, shelf: Path, spec: MachineSpec) -> None:
        kind = hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:16]
        self.folder = shelf / kind
        self.there = (self.folder / "memory").exists()

    async def put(self, driver: Driver, spec: MachineSpec) -> None:
        """Aside, from a driver whose guest has booted; it is killed there."""
        assert isinstance(driver, QemuDriver)
        done = await driver.exec(spec.vm, ("sh", "-c", SETTLED), b"", SETTLED_S_MAX)
        assert done.exit_code == 0, done
        await driver.pause(spec.vm)
        vm = driver._fleet.vms[spec.vm]
        await vm.do("migrate-set-parameters", {"max-bandwidth": BYTES_PER_S})
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / "draft"
        with draft.open("wb") as file:
            await vm.give("kept", file.fileno())
        await vm.do("migrate", {"uri": "fd:kept"})
        async with timeout(SETTLED_S_MAX):
            while (said := await vm.do("query-migrate")).get("status") != "completed":
                assert said.get("status") != "failed", said
        await driver.kill(spec.vm)
        _copy(_files(driver, spec.disks), self.folder)
        draft.rename(self.folder / "memory")

    async def back(self, driver: Driver, spec: MachineSpec) -> None:
        """It runs on that driver's node."""
        assert isinstance(driver, QemuDriver)
        for file in _files(driver, spec.disks):
            _copy([self.folder / file.name], file.parent)
        waiting = await driver.receive(spec)
        await to_thread(_pour, self.folder / "memory", waiting.address)
        await driver.activate(spec.vm)
        await driver.resume(spec.vm)


def _files(driver: QemuDriver, disks: Iterable[Disk]) -> list[Path]:
    return [driver._fleet.host.pools[disk.pool] / "disks" / disk.file for disk in disks if disk.file]


def _copy(files: Iterable[Path], to: Path) -> None:
    for file in files:
        seen = file.stat()
        shutil.copy2(file, to / file.name)
        os.chown(to / file.name, seen.st_uid, seen.st_gid)


def _pour(memory: Path, address: str) -> None:
    with moving.dial(address) as sock, memory.open("rb") as file:
        sock.setblocking(True)
        sock.sendfile(file)
