"""Backups of VMs at rest whose disks hold file systems that were made for a test, and a driver that reads files out of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from proto.backups import Definition
from proto.machine import Disk, DiskFormat
from proto.node import OrderBackup
from services.node.drivers import Driver
from services.node.drivers.backup_files import BackupFiles
from services.node.drivers.qemu.driver import QemuDriver
from tests.contract.driver_rigs import machine_spec
from tests.contract.store_rigs import NbdRig
from tests.guests import tiny_image

MIB = 1 << 20
FS_MIB = 16
FIRST = 1 * MIB
"""where the partition begins"""


def a_disk(name: str, size_mib: int, slot: int) -> Disk:
    return Disk(
        name=name, pool="default", file=f"web-1-{name}.qcow2", size_mib=size_mib, format=DiskFormat.QCOW2, serial=name, slot=slot
    )


def ext4(file: Path, tree: Path | None = None) -> Path:
    """A file system of FS_MIB with all that is in the folder."""
    with file.open("wb") as stream:
        stream.truncate(FS_MIB * MIB)
    more = ("-d", str(tree)) if tree is not None else ()
    tool = "/usr/sbin/mke2fs" if Path("/usr/sbin/mke2fs").exists() else "mke2fs"
    subprocess.run([tool, "-q", "-F", "-t", "ext4", "-L", "the-label", *more, str(file)], check=True)
    return file


def parted(file: Path, inside: Path) -> Path:
    """A disk with one partition, which holds that file system."""
    sectors = inside.stat().st_size // 512
    entry = bytes((0, 0, 0, 0, 0x83, 0, 0, 0)) + (FIRST // 512).to_bytes(4, "little") + sectors.to_bytes(4, "little")
    with file.open("wb") as stream:
        stream.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
        stream.seek(FIRST)
        stream.write(inside.read_bytes())
        stream.truncate((FS_MIB + 2) * MIB)
    return file


class Node:
    """One node with one pool, and (far) one more for its backups; `back_up` takes what the disks hold then, encrypted where it is
    told a key."""

    def __init__(self, top: Path, appliance: Path | None = None, name: str = "n1", far: NbdRig | None = None) -> None:
        self.top, self.pool, self.state = top, top / "pool", top / name
        self.far, self.backups = far, "default" if far is None else "other"
        pools, remotes = {"default": self.pool}, None
        if far is not None:
            pools, remotes = pools | far.pools(), far.remotes()
        self.driver = QemuDriver(
            name, self.state, pools, share=2, cache=top / "probes", appliance=appliance or tiny_image(), remotes=remotes
        )
        self._number = 0

    def put(self, disk: Disk, raw: Path) -> None:
        target = self.pool / "disks" / disk.file
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)], check=True)
        if os.geteuid() == 0:
            os.chown(target, 65534, 65534)

    def write(self, disk: Disk, at: int, byte: int, count: int) -> None:
        """Through its bitmaps, as a guest does."""
        words = ["-f", "qcow2", "-c", f"write -P {byte} {at} {count}", str(self.pool / "disks" / disk.file)]
        subprocess.run(["qemu-io", *words], check=True, capture_output=True)

    async def back_up(self, *disks: Disk, parent: str = "", key: str = "") -> str:
        self._number += 1
        name = f"b1-{self._number}"
        defined = Definition(shape=machine_spec().shape, disks=(), nics=())
        done = await self.driver.back_up(
            OrderBackup(
                vm="web-1", version=self._number, backup=name, generation=0, pool=self.backups, disks=disks, definition=defined,
                parent=parent, key=key,
            )
        )  # fmt: skip
        assert done.parent == parent, done.sentence
        return name

    def left(self) -> list[str]:
        """Of readers."""
        return sorted(path.name for path in (self.state / "reading").iterdir())

    async def close(self) -> None:
        await self.driver.close()


async def opened(driver: Driver, backup: str, pool: str = "default") -> BackupFiles:
    return await driver.open_backup(pool, "web-1", backup)


async def content(files: BackupFiles, path: str) -> bytes:
    what = await files.what(path)
    return b"".join([data async for data in files.content(path, what)])


async def names(files: BackupFiles, path: str) -> list[str]:
    return [one.name for one in await files.list(path)]
