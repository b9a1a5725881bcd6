"""The command line of a file reader: a machine without a network, which has the disks of a backup and two channels. Pure.

What is on the disks is hostile: this machine's kernel mounts it, not the host's. It writes only into files that are gone when it
ends (a journal is replayed there), and those may have FSIZE_MIB each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from services.node.drivers.qemu.argv import SANDBOX
from services.node.drivers.qemu.devices import FDSET

MEMORY_MIB = 384
"""a file system of many TiB keeps its tables in it"""
FSIZE_MIB = 1024
"""more than any journal has"""
DISKS_MAX = 20
FIRST_SLOT = 4
CMDLINE = "panic=-1 quiet loglevel=0 cryptomgr.notests no_timer_check pcie_ports=compat initcall_blacklist=tracer_init_tracefs"
SERIAL = "asv-{}"


class Handles(msgspec.Struct, frozen=True):
    """Numbers of open files that the process inherits. disks: of each, what it writes into, then its files, its own first."""

    kernel: int
    initrd: int
    control: int
    data: int
    disks: Sequence[tuple[int, ...]]


def build(program: str, accelerator: str, handles: Handles) -> list[str]:
    words = [
        *("prlimit", f"--fsize={FSIZE_MIB << 20}", "--core=0", "setpriv", "--pdeathsig", "KILL"),
        *(program, "-name", "asv-reader", "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-sandbox", SANDBOX, "-machine", "q35,dump-guest-core=off", "-accel", accelerator),
        *("-m", str(MEMORY_MIB), "-smp", "1", "-kernel", f"/proc/self/fd/{handles.kernel}"),
        *("-initrd", f"/proc/self/fd/{handles.initrd}", "-append", CMDLINE),
        *("-device", _device("virtio-serial-pci", addr="2", max_ports=3)),
    ]
    for number, (name, fd) in enumerate((("control", handles.control), ("data", handles.data)), 1):
        words += ["-chardev", f"socket,id={name},fd={fd}"]
        words += ["-device", _device("virtserialport", nr=number, chardev=name, name=f"asv.{name}")]
    for index, fds in enumerate(handles.disks):
        words += _disk(index, fds)
    return words


def _disk(index: int, fds: tuple[int, ...]) -> list[str]:
    """What it writes into stands on the backup's files, each on the next."""
    words: list[str] = []
    below: str | None = None
    for depth, fd in reversed(tuple(enumerate(fds))):
        into, name, written = 1 + index * 16 + depth, f"d{index}-{depth}", depth == 0
        words += ["-add-fd", f"fd={fd},set={into}"]
        words += ["-blockdev", json.dumps(_file(f"{name}-file", into, written=written))]
        node = {"driver": "qcow2", "node-name": name, "file": f"{name}-file", "read-only": not written, "backing": below}
        words += ["-blockdev", json.dumps(node)]
        below = name
    slot = FIRST_SLOT + index
    return [*words, "-device", _device("virtio-blk-pci", addr=f"{slot:#x}", drive=f"d{index}-0", serial=SERIAL.format(index))]


def _file(name: str, into: int, *, written: bool) -> dict[str, Any]:
    return {
        "driver": "file", "node-name": name, "filename": f"{FDSET}{into}", "read-only": not written, "auto-read-only": False,
        "locking": "off" if written else "on", "aio": "threads",
    }  # fmt: skip


def _device(driver: str, **words: object) -> str:
    return json.dumps({"driver": driver} | words)
