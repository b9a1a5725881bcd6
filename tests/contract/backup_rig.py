"""A VM of the driver suite, with what the tests of its backups need: orders, and what is in a backup compared with its disks."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from proto.backups import BackupDone, Definition, SavedDisk
from proto.machine import Disk, DiskFormat, Layer, MachineSpec, Origin
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.backups import claims
from services.node.drivers.qemu.backups.claims import Claim
from services.node.drivers.qemu.backups.media import Media
from services.node.drivers.qemu.backups.windows import CLUSTER, media_of
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.machine import RunningVm
from services.node.drivers.simbackups import key_of
from services.node.drivers.simulated import SimulatedDriver
from tests.contract.driver_rigs import EXPORT_MIB, QemuRig, SimRig
from tests.contract.test_driver_snapshots import Vm


class Saved:
    """Its backups, by name, as they were told."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.told: dict[str, tuple[SavedDisk, ...]] = {}
        self.parents: dict[str, str] = {}
        self._number = 0
        self._mirrors = 0
        self.pool = vm.rig.backup_pool if isinstance(vm.rig, QemuRig) else "default"

    def order(self, parent: str = "", *, rests: bool = False, pool: str = "", **more: Any) -> OrderBackup:
        self._number += 1
        pool = pool or self.pool
        spec = self.vm.spec
        return OrderBackup(
            vm="web-1", version=self._number, backup=f"b1-{self._number}", generation=0 if rests else spec.generation, pool=pool,
            disks=spec.disks, definition=Definition(shape=spec.shape, disks=(), nics=()), parent=parent, **more,
        )  # fmt: skip

    async def take(self, parent: str = "", **more: Any) -> BackupDone:
        return await self.taken(self.order(parent, **more))

    async def taken(self, order: OrderBackup) -> BackupDone:
        done = await self.vm.driver.back_up(order)
        self.told[order.backup], self.parents[order.backup] = done.disks, done.parent
        return done

    def removal(self, backup: str) -> OrderBackupRemoval:
        heirs = {name: self.told[name] for name, parent in self.parents.items() if parent == backup}
        below = self.parents.get(backup, "")
        return OrderBackupRemoval(vm="web-1", version=99, backup=backup, pool=self.pool, heirs=heirs, below=below)

    def removed(self, order: OrderBackupRemoval, heirs: dict[str, tuple[SavedDisk, ...]]) -> None:
        assert heirs.keys() == order.heirs.keys()
        self.told.pop(order.backup)
        self.parents.pop(order.backup)
        for name, files in heirs.items():
            self.told[name], self.parents[name] = files, order.below

    async def remove(self, backup: str) -> None:
        order = self.removal(backup)
        self.removed(order, await self.vm.driver.remove_backup(order))

    async def damaged(self, backup: str) -> dict[str, str]:
        chain, at = {}, backup
        while at:
            chain[at] = self.told[at]
            at = self.parents[at]
        order = OrderBackupVerify(vm="web-1", version=98, backup=backup, pool=self.pool, backups=chain)
        found = await self.vm.driver.verify_backup(order)
        assert found.damaged or found.read_mib == -(-sum(d.bytes for files in chain.values() for d in files) // (1 << 20))
        return found.damaged

    def names(self) -> list[str]:
        """What is there, whole or not."""
        rig = self.vm.rig
        if isinstance(rig, SimRig):
            return sorted(key.rpartition("/")[2] for key in rig.pool.backups)
        assert isinstance(rig, QemuRig)
        folder = rig.backups / "web-1"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def folder(self, backup: str) -> Path:
        rig = self.vm.rig
        assert isinstance(rig, QemuRig)
        return rig.backups / "web-1" / backup

    def file(self, backup: str, disk: str = "data") -> Path:
        """What stands for it in the pool's folder: where that is all, it is the qcow2 itself."""
        return self.folder(backup) / next(saved.file for saved in self.told[backup] if saved.disk == disk)

    def qcow2(self, backup: str, disk: str = "data") -> Path:
        """A file that holds it, beside those that it stands on: itself, or a copy."""
        rig, file = self.vm.rig, self.file(backup, disk)
        assert isinstance(rig, QemuRig)
        if rig.far is None:
            return file
        self._mirrors += 1
        there = rig.top / f"mirror-{self._mirrors}"
        for path in (rig.backups / "web-1").glob("*/*.qcow2"):
            copied(rig, path, there / path.parent.name / path.name)
        return there / backup / file.name

    def recovered(self, *chain: str, key: str = "", file: str = "web-1-data.r1.qcow2") -> MachineSpec:
        """Its second disk is made anew on these, the newest first."""
        spec = self.vm.spec
        saved = [next(one for one in self.told[backup] if one.disk == "data") for backup in chain]
        layers = tuple(
            Layer(
                file=one.file, format=DiskFormat.QCOW2, leaving=True,
                origin=Origin(vm="web-1", backup=backup, pool=self.pool, bytes=one.bytes, key=key),
            )
            for backup, one in zip(chain, saved, strict=True)
        )  # fmt: skip
        old = next(disk for disk in spec.disks if disk.name == "data")
        data = msgspec.structs.replace(old, file=file, layers=layers, made=False)
        return msgspec.structs.replace(spec, generation=spec.generation + 1, born=None, disks=(spec.disks[0], data))

    def same(self, backup: str) -> bool:
        """What is on its disks, which no process writes, is what is in the backup."""
        return all(self.same_disk(backup, disk) for disk in self.vm.spec.disks)

    def same_disk(self, backup: str, disk: Disk) -> bool:
        rig = self.vm.rig
        if isinstance(rig, SimRig):
            return rig.pool.backups[key_of("default", "web-1", backup)].on[disk.name] == rig.pool.on(disk)
        assert isinstance(rig, QemuRig)
        return compare(rig.pool / "disks" / disk.file, self.qcow2(backup, disk.name))

    def copied(self, backup: str, to: Path) -> dict[str, Path]:
        """What is in it, as raw files."""
        to.mkdir(parents=True)
        for saved in self.told[backup]:
            command = ["qemu-img", "convert", "-O", "raw", str(self.qcow2(backup, saved.disk)), str(to / saved.disk)]
            subprocess.run(command, check=True)
        return {saved.disk: to / saved.disk for saved in self.told[backup]}

    def holds(self, backup: str, copies: dict[str, Path]) -> bool:
        return all(compare(self.qcow2(backup, disk), raw, "raw") for disk, raw in copies.items())

    def running(self) -> RunningVm:
        driver = self.vm.driver
        assert isinstance(driver, QemuDriver)
        return driver._fleet.vms["web-1"]

    async def bitmaps(self, slot: int = 1) -> list[str]:
        nodes = await self.running().do("query-named-block-nodes", {"flat": True})
        return [b["name"] for n in nodes if n["node-name"] == f"disk{slot}" for b in n.get("dirty-bitmaps", ())]

    async def left(self) -> list[str]:
        """Of backups, in its process."""
        running = self.running()
        jobs = [str(job["device"]) for job in await running.do("query-block-jobs")]
        nodes = [str(n["node-name"]) for n in await running.do("query-named-block-nodes", {"flat": True})]
        sets = [f"fdset {each['fdset-id']}" for each in await running.do("query-fdsets")]
        return [name for name in (*jobs, *nodes, *sets) if "backup" in name or "fdset" in name]

    async def slow(self) -> None:
        """The next one takes its time: with `rate_mibps=1` in QEMU's case, for so much is on the disk."""
        if isinstance(self.vm.driver, SimulatedDriver):
            self.vm.driver.host.params = replace(self.vm.driver.host.params, backup_us=30_000_000)
        else:
            await self.vm.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=48 conv=fsync 2>/dev/null")

    def fast(self) -> None:
        if isinstance(self.vm.driver, SimulatedDriver):
            self.vm.driver.host.params = replace(self.vm.driver.host.params, backup_us=0)


def media(rig: QemuRig) -> Media:
    pool = rig.backups.parent
    return media_of(rig.backup_pool, pool, rig.far.remotes() if rig.far is not None else {})


def copied(rig: QemuRig, path: Path, to: Path) -> None:
    """What lies in a window, as the file that it is."""
    assert rig.far is not None
    claim = claims.read(path)
    to.parent.mkdir(parents=True, exist_ok=True)
    with (rig.far.files / "asv").open("rb") as export:
        export.seek(claim.offset)
        to.write_bytes(export.read(claim.size))


def into_windows(rig: QemuRig, *files: Path) -> None:
    """Each file lies in the export from now on, and a claim in its place."""
    if rig.far is None:
        return
    pool, there = rig.backups.parent, list[Claim]()
    with (rig.far.files / "asv").open("r+b") as export:
        for path in files:
            data = path.read_bytes()
            claim = claims.fitting(EXPORT_MIB << 20, there, len(data))
            assert claim is not None
            there.append(Claim(claim.offset, len(data) + -len(data) % CLUSTER))
            export.seek(claim.offset)
            export.write(data)
            claims.write(path, there[-1], 0o400)
    disks.make_pool(pool)


def compare(one: Path, other: Path, format: str = "qcow2") -> bool:
    command = ["qemu-img", "compare", "-f", "qcow2", "-F", format, str(one), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def info(file: Path) -> dict[str, Any]:
    out = subprocess.run(["qemu-img", "info", "-U", "--output=json", str(file)], capture_output=True, check=True).stdout
    found: dict[str, Any] = json.loads(out)
    return found
