"""The command line of a file reader: a machine without a network, which has the disks of a backup and two channels. Pure.

What is on the disks is hostile: this machine's kernel mounts it, not the host's. It writes only into files that are gone when it
ends (a journal is replayed there), and those may have FSIZE_MIB each. A backup that lies in an export is read from its server, and
the key of one that is encrypted from an open file (keyring.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from services.node.drivers.qemu.argv import SANDBOX, secret_words
from services.node.drivers.qemu.backups.opened import Opened
from services.node.drivers.qemu.devices import FDSET, secret_id
from services.node.drivers.qemu.stores import settings

MEMORY_MIB = 384
"""a file system of many TiB keeps its tables in it"""
FSIZE_MIB = 1024
"""more than any journal has"""
DISKS_MAX = 20
FIRST_SLOT = 4
CMDLINE = "panic=-1 quiet loglevel=0 cryptomgr.notests no_timer_check pcie_ports=compat initcall_blacklist=tracer_init_tracefs"
SERIAL = "asv-{}"


class Given(msgspec.Struct, frozen=True):
    """A disk: what it writes into, and its files, its own first."""

    scratch: int
    files: Sequence[Opened]


class Handles(msgspec.Struct, frozen=True):
    """Numbers of open files that the process inherits. keys: by their ids."""

    kernel: int
    initrd: int
    control: int
    data: int
    disks: Sequence[Given]
    keys: Sequence[tuple[str, int]] = ()

    def fds(self) -> list[int]:
        own = [self.kernel, self.initrd, self.control, self.data, *(fd for _, fd in self.keys)]
        files = [file.at for disk in self.disks for file in disk.files if isinstance(file.at, int)]
        return [*own, *(disk.scratch for disk in self.disks), *files]


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
    for key, fd in handles.keys:
        words += secret_words(key, fd)
    for index, disk in enumerate(handles.disks):
        words += _disk(index, disk)
    return words


def _disk(index: int, disk: Given) -> list[str]:
    """What it writes into stands on the backup's files, each on the next."""
    words: list[str] = []
    below: str | None = None
    for depth, file in reversed(tuple(enumerate((Opened(disk.scratch), *disk.files)))):
        into, name, written = 1 + index * 16 + depth, f"d{index}-{depth}", depth == 0
        if isinstance(file.at, int):
            words += ["-add-fd", f"fd={file.at},set={into}"]
            words += ["-blockdev", json.dumps(_file(f"{name}-file", into, written=written))]
        else:
            words += ["-blockdev", json.dumps(settings.window_node(f"{name}-file", file.at, writes=False))]
        node: dict[str, Any] = {"driver": "qcow2", "node-name": name, "file": f"{name}-file", "read-only": not written}
        if file.key:
            node["encrypt"] = {"format": "luks", "key-secret": secret_id(file.key)}
        words += ["-blockdev", json.dumps(node | {"backing": below})]
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
