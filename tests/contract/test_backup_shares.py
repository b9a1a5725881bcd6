"""A share that backups are written to, and what may befall it meanwhile: it hangs, is read-only from then on, or is gone.

The file systems are real, and not of a network: not every kernel that this runs on has NFS. What a mount of a server that is away
does to whoever writes, a frozen file system does (`hard`: it waits in the kernel), and one that was shut down (`soft`: EIO)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proto.backups import BackupKind
from proto.machine import Freeze
from services.node.drivers import NotBackedUp
from services.node.drivers.qemu.driver import QemuDriver
from tests.contract.backup_rig import Saved
from tests.contract.driver_rigs import QemuRig, rig_of
from tests.contract.test_driver_backups import going
from tests.contract.test_driver_snapshots import Vm, mounted

SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2
"""EXT4_IOC_SHUTDOWN of linux/ext4.h: from then on each request fails"""
WRITES = "dd if=/dev/urandom of=/dev/vdb bs=1M count=40 conv=notrunc,fsync 2>/dev/null"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        yield rig


class Share:
    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self._device = device

    def hang(self) -> None:
        subprocess.run(["fsfreeze", "-f", str(self.folder)], check=True)

    def go_on(self) -> None:
        subprocess.run(["fsfreeze", "-u", str(self.folder)], check=False, capture_output=True)

    def read_only(self) -> None:
        """As after an error of its storage."""
        Path(f"/sys/fs/ext4/{self._device}/trigger_fs_error").write_text("1", encoding="ascii")

    def gone(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(fd)


@contextmanager
def share(top: Path) -> Iterator[Share]:
    image, folder = top / "share.img", top / "share"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    command = ["mount", "-o", "loop,errors=remount-ro", str(image), str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    found = subprocess.run(["findmnt", "-no", "SOURCE", str(folder)], capture_output=True, check=True, text=True)
    made = Share(folder, Path(found.stdout.strip()).name)
    try:
        yield made
    finally:
        made.go_on()
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def ended(rig: QemuRig) -> Iterator[None]:
    """Before the share is unmounted."""
    try:
        yield
    finally:
        rig.end()


async def backed_up_to(rig: QemuRig, vm: Vm, folder: Path) -> Saved:
    await vm.driver.close()
    pools = {"default": rig.pool, "share": folder}
    vm.driver = QemuDriver("n1", rig.top / "n1", pools, share=2, cache=rig.top.parent / "probes")
    await vm.driver.open()
    saved = Saved(vm)
    await saved.slow()
    return saved


@pytest.mark.parametrize(
    ("befalls", "said"),
    [(Share.read_only, "Read-only file system"), (Share.gone, "Input/output error")],
    ids=["read-only", "gone"],
)
async def test_a_share_that_takes_no_more_ends_the_backup_alone(
    rig: QemuRig, tmp_path: Path, befalls: Callable[[Share], None], said: str
) -> None:
    with share(tmp_path) as there, ended(rig):
        async with mounted(rig) as vm:
            saved = await backed_up_to(rig, vm, there.folder)
            task = await going(saved, saved.order(pool="share", rate_mibps=1, freeze=Freeze.NO))
            befalls(there)
            await vm.sh(WRITES)
            with pytest.raises(NotBackedUp, match=said):
                await task
            assert [m.status for m in await vm.driver.open()] == ["running"] and await saved.left() == []
            await vm.sh(WRITES)
            assert (await saved.take()).kind is BackupKind.FULL, "into another pool, by the same process"


async def test_a_guest_waits_for_a_share_that_hangs_and_nothing_is_lost(rig: QemuRig, tmp_path: Path) -> None:
    """What it writes over has to be copied first, and nobody can call back a request that waits in the kernel."""
    with share(tmp_path) as there, ended(rig):
        async with mounted(rig) as vm:
            saved = await backed_up_to(rig, vm, there.folder)
            task = await going(saved, saved.order(pool="share", rate_mibps=8, freeze=Freeze.NO))
            there.hang()
            writing = asyncio.ensure_future(vm.sh(WRITES))
            done, _ = await asyncio.wait({writing, task}, timeout=4)
            assert not done, "if this is red, guests wait no more: say so in docs/backups.md"
            there.go_on()
            await writing
            await task
            assert [m.status for m in await vm.driver.open()] == ["running"] and await saved.left() == []
