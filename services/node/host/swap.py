"""Swap of this machine that may hold guests' memory: compressed in memory (zram), or on a disk that is encrypted (dm-crypt). Plain
swap would put what guests have in memory on a disk in the clear: it does not count."""

from __future__ import annotations

from pathlib import Path

from services.node.host.identity import ROOT
from services.node.host.text import read


def encrypted_mib(root: Path = ROOT) -> int:
    """MiB of it, used or not."""
    total_kib = 0
    for line in read(root / "proc/swaps").splitlines()[1:]:
        words = line.split()
        if len(words) >= 3 and words[2].isdigit() and _safe(root, words[0]):
            total_kib += int(words[2])
    return total_kib >> 10


def _safe(root: Path, name: str) -> bool:
    device = Path(name).name
    if name.startswith("/dev/mapper/"):
        found = [p.parent.parent.name for p in (root / "sys/block").glob("dm-*/dm/name") if read(p) == device]
        device = found[0] if found else ""
    if device.startswith("zram"):
        return read(root / "sys/block" / device / "backing_dev") in (
            "",
            "none",
        )  # else it writes to a disk, in the clear
    return bool(device) and read(root / "sys/block" / device / "dm/uuid").startswith("CRYPT-")
