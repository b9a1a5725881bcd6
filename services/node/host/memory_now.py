"""How this machine's memory is doing right now: what is free, swap, pressure (PSI), what KSM saves. Reading and pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from proto.node import AreaNow, SwapNow
from services.node.host.cgroup_tree import bases
from services.node.host.identity import ROOT
from services.node.host.memory import parse_meminfo
from services.node.host.text import read, read_int

KSM = Path("sys/kernel/mm/ksm")
PSI = Path("proc/pressure/memory")
PAGE_KIB = 4


class MemoryNow(msgspec.Struct, frozen=True, kw_only=True):
    """MiB. psi_…: percent of the last ten seconds in which some, or all, tasks waited for memory; -1: the kernel does not say."""

    total_mib: int
    available_mib: int
    swap_total_mib: int = 0
    swap_free_mib: int = 0
    psi_some_avg10: float = -1.0
    psi_full_avg10: float = -1.0
    ksm_saved_mib: int = 0
    areas: tuple[AreaNow, ...] = ()
    swaps: tuple[SwapNow, ...] = ()


def parse_pressure(text: str) -> tuple[float, float]:
    """(some, full) over ten seconds; -1 where a line is missing."""
    found = {"some": -1.0, "full": -1.0}
    for line in text.splitlines():
        kind, *fields = line.split()
        for field in fields:
            name, _, value = field.partition("=")
            if kind in found and name == "avg10":
                found[kind] = float(value)
    return found["some"], found["full"]


def memory_now(root: Path = ROOT) -> MemoryNow:
    """Of the whole machine. Raises OSError where there is no /proc."""
    kib = parse_meminfo((root / "proc/meminfo").read_text())
    some, full = parse_pressure(read(root / PSI) or _of_group(root))
    return MemoryNow(
        total_mib=kib["MemTotal"] >> 10,
        available_mib=kib.get("MemAvailable", kib.get("MemFree", 0)) >> 10,
        swap_total_mib=kib.get("SwapTotal", 0) >> 10,
        swap_free_mib=kib.get("SwapFree", 0) >> 10,
        psi_some_avg10=some,
        psi_full_avg10=full,
        ksm_saved_mib=read_int(root / KSM / "pages_sharing", 0) * PAGE_KIB >> 10,
    )


def _of_group(root: Path) -> str:
    """The pressure on the group this process stands in, where the machine's own is not shown (a container)."""
    return next((read(base.folder / "memory.pressure") for base in bases(root) if base.version == 2), "")


def part_of(now: MemoryNow, part_mib: int, held_mib: int) -> MemoryNow:
    """As a node sees it that may use so much of the machine, of which its VMs and agent hold so much. The machine's pressure is not
    the part's: a part runs short while the machine has plenty."""
    total_mib = min(part_mib, now.total_mib)
    available_mib = max(0, min(now.available_mib, total_mib - held_mib))
    return msgspec.structs.replace(
        now, total_mib=total_mib, available_mib=available_mib, psi_some_avg10=-1.0, psi_full_avg10=-1.0
    )


def ksm_on(root: Path = ROOT) -> bool:
    """See to it that the kernel merges what may be merged. Never off again: another node on this host may want it, and without
    memory that may be merged it does nothing."""
    file = root / KSM / "run"
    if read(file) == "1":
        return True
    try:
        file.write_text("1")
    except OSError:
        return False
    return True
