"""qemu-img is killed at each of its writes while layers are merged at rest: whatever was cut short, the disk reads as before."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto.machine import DiskFormat
from services.node.drivers import DriverError
from services.node.drivers.qemu.layers import backing_of
from services.node.drivers.qemu.qemu_img import QemuImg

STRACE, WRITES_MAX = shutil.which("strace"), 100
pytestmark = pytest.mark.skipif(not STRACE or shutil.which("qemu-img") is None, reason="strace or qemu-img is not installed")


def qemu_img(folder: Path, *words: str) -> None:
    subprocess.run(["qemu-img", *words], cwd=folder, check=True, capture_output=True)


def made(folder: Path) -> None:
    """base, middle and top, each with something of its own; `whole` is what they are together."""
    for name, below, writes in (
        ("base", "", ("write -P 1 0 5M",)),
        ("middle", "base.qcow2", ("write -P 2 1M 3M", "write -P 4 6M 64k")),
        ("top", "middle.qcow2", ("write -P 3 2M 100k",)),
    ):
        stands = ("-b", below, "-F", "qcow2") if below else ()
        qemu_img(folder, "create", "-q", "-f", "qcow2", *stands, f"{name}.qcow2", "8M")
        words = [word for write in writes for word in ("-c", write)]
        subprocess.run(["qemu-io", "-f", "qcow2", *words, f"{name}.qcow2"], cwd=folder, check=True, capture_output=True)
    qemu_img(folder, "convert", "-O", "raw", "top.qcow2", "whole")


def killed_at(folder: Path, write: int) -> Path:
    """A qemu-img that gets no further than its write of that number."""
    words = f"-f -qq -o /dev/null -e trace=pwrite64,pwritev -e inject=pwrite64,pwritev:signal=KILL:when={write}"
    path = folder / f"killed-{write}"
    path.write_text(f'#!/bin/sh\nexec {STRACE} {words} {shutil.which("qemu-img")} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the user as whom qemu-img runs can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.parametrize("onto", ["", "base.qcow2"])
def test_whatever_was_cut_short_it_reads_as_before(folder: Path, onto: str) -> None:
    made(folder)
    top = folder / "top.qcow2"
    top.chmod(0o666)
    kept = top.read_bytes()
    for write in range(1, WRITES_MAX):
        top.write_bytes(kept)
        try:
            QemuImg(str(killed_at(folder, write))).rebase(top, onto, DiskFormat.QCOW2 if onto else None)
        except DriverError:
            qemu_img(folder, "compare", "-q", "-f", "raw", "-F", "qcow2", "whole", top.name)
            continue
        break
    assert write > 3 and backing_of(top) == onto
    qemu_img(folder, "compare", "-q", "-f", "raw", "-F", "qcow2", "whole", top.name)
