"""The swap of this machine, and whether guests' memory may lie in it. Reading and pure.

It may where it stays in memory, compressed, in a bounded part of it (zram with a mem_limit), or lies on a disk encrypted
(dm-crypt).
The kernel, not we, chooses among active swaps: where one of them is unfit, VMs are swapped to none.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from proto.node import PLAIN, SwapNow
from services.node.host.identity import ROOT
from services.node.host.text import read

ZRAM, CRYPT = "zram", "crypt"
MIB = 1 << 20


def swaps(root: Path = ROOT, own: str = "") -> tuple[SwapNow, ...]:
    """Those that are on. own: the device that this node's agent made."""
    found = []
    for line in read(root / "proc/swaps").splitlines()[1:]:
        words = line.split()
        if len(words) >= 4 and words[2].isdigit() and words[3].isdigit():
            found.append(_swap(root, words[0], int(words[2]) >> 10, int(words[3]) >> 10, own))
    return tuple(found)


def for_vms(found: Iterable[SwapNow]) -> tuple[int, int]:
    """(MiB that VMs may be swapped to, MiB of memory that this may take): none where one of the swaps is unfit."""
    listed = tuple(found)
    if any(s.why_not for s in listed):
        return 0, 0
    return sum(s.size_mib for s in listed), sum(s.memory_max_mib for s in listed)


def unfit(found: Iterable[SwapNow]) -> list[str]:
    """A sentence for each swap that keeps VMs from all of it."""
    return [f"swap for VMs ({s.name} is on, and {s.why_not})" for s in found if s.why_not]


def _swap(root: Path, name: str, size_mib: int, used_mib: int, own: str) -> SwapNow:
    block = root / "sys/block" / _device(root, name)
    mine = bool(own) and Path(own).name in (Path(name).name, read(block / "dm/name"))
    if block.name.startswith("zram"):
        return _zram(block, name, size_mib, used_mib, mine)
    if read(block / "dm/uuid").startswith("CRYPT-"):
        return SwapNow(name, CRYPT, size_mib, used_mib, own=mine)
    why = "is not encrypted: guests' memory would lie on a disk in the clear (swapoff it, or put dm-crypt below it)"
    return SwapNow(name, PLAIN, size_mib, used_mib, why, own=mine)


def _zram(block: Path, name: str, size_mib: int, used_mib: int, mine: bool) -> SwapNow:
    stats = [int(word) for word in read(block / "mm_stat").split() if word.isdigit()]
    takes_mib, limit_mib = (stats[2] // MIB, stats[3] // MIB) if len(stats) > 3 else (0, 0)
    why = ""
    if (disk := read(block / "backing_dev")) not in ("", "none"):
        why = f"writes to {disk} in the clear (take that backing device away)"
    elif not limit_mib:
        why = "has no mem_limit: it could take as much memory as it is to save (set one, or let the agent make it: ASV_SWAP=zram)"
    return SwapNow(name, ZRAM, size_mib, used_mib, why, takes_mib, limit_mib, mine)


def _device(root: Path, name: str) -> str:
    """The kernel's name of the device; that of a file for a file, which is no device."""
    device = Path(name).name
    if name.startswith("/dev/mapper/"):
        return next((p.parent.parent.name for p in (root / "sys/block").glob("dm-*/dm/name") if read(p) == device), "-")
    return device if name.startswith("/dev/") else "-"
