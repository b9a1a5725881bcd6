"""One page of a process: where the machine has it, and in what state. From /proc/PID/pagemap, /proc/kpageflags and the kernel's
move_pages. Reading needs root (CAP_SYS_ADMIN): without, the kernel gives no frame numbers.

    NeedsRoot    the kernel does not say where pages lie
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from pathlib import Path

import msgspec

from services.node.host.identity import ROOT
from services.node.host.text import parse_list, read

PAGE = 4096
HUGE = 512
"""small pages in a huge one of 2 MiB"""
_PRESENT, _SWAPPED, _FILE = 1 << 63, 1 << 62, 1 << 61
_FRAME = (1 << 55) - 1
_KPF_HUGETLB, _KPF_KSM, _KPF_THP = 1 << 17, 1 << 21, 1 << 22
_MOVE_PAGES = {"x86_64": 279, "aarch64": 239}


class NeedsRoot(PermissionError):
    """Its text is a sentence."""


class Entry(msgspec.Struct, frozen=True):
    """A line of a page table as /proc/PID/pagemap tells it. frame: the number of the machine's page, 0 where it is not told."""

    present: bool
    swapped: bool
    file: bool
    frame: int


class HostPage(msgspec.Struct, frozen=True):
    """machine: the address in the machine's memory, -1 where the page is not there. page_kib: of the mapping page. state: words of
    Translation.state. cell: -1 where it cannot be told."""

    machine: int
    page_kib: int
    cell: int
    state: tuple[str, ...]


def parse_entry(word: int) -> Entry:
    present, swapped = bool(word & _PRESENT), bool(word & _SWAPPED)
    return Entry(present, swapped, bool(word & _FILE), word & _FRAME if present else 0)


def entries(pid: int, address: int, count: int, root: Path = ROOT) -> list[Entry]:
    """Of `count` small pages from the one that holds `address`. Raises OSError, ProcessLookupError."""
    try:
        with (root / f"proc/{pid}/pagemap").open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), count * 8, address // PAGE * 8)
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    return [parse_entry(int.from_bytes(data[i : i + 8], "little")) for i in range(0, len(data) - 7, 8)]


def look(pid: int, address: int, small_kib: int = 4, root: Path = ROOT) -> HostPage:
    """The page of a process at an address. small_kib: the page size of the mapping (more than 4 where it is made of hugetlbfs
    pages). Raises NeedsRoot, ProcessLookupError, OSError."""
    found = entries(pid, address, 1, root)
    if not found:
        raise OSError(errno.EFAULT, f"process {pid} has no address {address:#x}")
    entry = found[0]
    if entry.swapped:
        return HostPage(-1, 0, -1, ("swapped",))
    if not entry.present:
        return HostPage(-1, 0, -1, ("untouched",))
    if entry.frame == 0:
        raise NeedsRoot("the kernel tells nobody but root where a page lies in the machine's memory")
    flags = _flags(entry.frame, root)
    huge_kib = small_kib if small_kib > 4 else _huge_kib(pid, address, entry.frame, flags, root)
    words = {"ksm": bool(flags & _KPF_KSM), "huge": huge_kib > 4, "file": entry.file and small_kib == 4}
    state = ("resident", *(word for word, is_so in words.items() if is_so))
    return HostPage(entry.frame * PAGE + address % PAGE, huge_kib, cell_of(pid, address, root), state)


def _flags(frame: int, root: Path) -> int:
    """/proc/kpageflags of that frame; 0 where it cannot be read."""
    try:
        with (root / "proc/kpageflags").open("rb", buffering=0) as file:
            return int.from_bytes(os.pread(file.fileno(), 8, frame * 8), "little")
    except OSError:
        return 0


def _huge_kib(pid: int, address: int, frame: int, flags: int, root: Path) -> int:
    """2048 where the 2 MiB around lie in one run of frames that the kernel calls a huge page, else 4: the flag alone is also on
    smaller compounds."""
    if not flags & (_KPF_THP | _KPF_HUGETLB):
        return 4
    first = address // PAGE // HUGE * HUGE
    run = entries(pid, first * PAGE, HUGE, root)
    begin = frame - (address // PAGE - first)
    whole = begin % HUGE == 0 and len(run) == HUGE and all(e.frame == begin + i for i, e in enumerate(run))
    return HUGE * 4 if whole else 4


def cell_of(pid: int, address: int, root: Path = ROOT) -> int:
    """The NUMA cell of the page at that address; -1: cannot be told."""
    online = parse_list(read(root / "sys/devices/system/node/online"))
    if len(online) <= 1:
        return online[0] if online else 0
    number = _MOVE_PAGES.get(platform.machine())
    if number is None:
        return -1
    page, status = ctypes.c_void_p(address // PAGE * PAGE), ctypes.c_int(-1)
    asked = ctypes.CDLL(None, use_errno=True).syscall(
        number, pid, ctypes.c_ulong(1), ctypes.byref(page), None, ctypes.byref(status), 0
    )
    return status.value if asked == 0 and status.value >= 0 else -1
