"""What a process takes of this machine's memory: /proc/PID/smaps, numa_maps and status. Parsing is pure; KiB everywhere.

Walking the page tables of a process takes milliseconds for each GiB and holds up its page faults for as long: `quick` does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from services.node.host.identity import ROOT

_HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+\s*(.*)$")
_PER_CELL = re.compile(r"\bN(\d+)=(\d+)")
_PAGE_KIB = re.compile(r"kernelpagesize_kB=(\d+)")


class Mapping(msgspec.Struct, frozen=True):
    """A run of a process's addresses, `first` to `end` (not included). kib: the figures of smaps by their names."""

    first: int
    end: int
    mode: str
    name: str
    kib: dict[str, int]

    @property
    def page_kib(self) -> int:
        return self.kib.get("KernelPageSize", 4)

    @property
    def swapped_kib(self) -> int:
        return self.kib.get("Swap", 0)

    @property
    def resident_kib(self) -> int:
        return self.kib.get("Rss", 0) + self.kib.get("Shared_Hugetlb", 0) + self.kib.get("Private_Hugetlb", 0)

    @property
    def huge_kib(self) -> int:
        names = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb")
        return sum(self.kib.get(name, 0) for name in names)

    @property
    def shared_kib(self) -> int:
        return sum(self.kib.get(name, 0) for name in ("Shared_Clean", "Shared_Dirty", "Shared_Hugetlb"))


class Quick(msgspec.Struct, frozen=True):
    resident_kib: int
    swapped_kib: int


def parse_smaps(lines: Iterable[str]) -> Iterator[Mapping]:
    """Also of smaps_rollup, which is one mapping."""
    head: re.Match[str] | None = None
    kib: dict[str, int] = {}
    for line in lines:
        if (found := _HEAD.match(line)) is not None:
            if head is not None:
                yield _mapping(head, kib)
            head, kib = found, {}
            continue
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            kib[name] = int(words[0])
    if head is not None:
        yield _mapping(head, kib)


def _mapping(head: re.Match[str], kib: dict[str, int]) -> Mapping:
    return Mapping(int(head[1], 16), int(head[2], 16), head[3], head[4].strip(), kib)


def parse_numa_maps(lines: Iterable[str]) -> dict[int, int]:
    """Cell -> KiB resident there."""
    cells: Counter[int] = Counter()
    for line in lines:
        page = _PAGE_KIB.search(line)
        for cell, pages in _PER_CELL.findall(line):
            cells[int(cell)] += int(pages) * (int(page[1]) if page else 4)
    return dict(cells)


def parse_status(text: str) -> Quick:
    """/proc/PID/status."""
    kib = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.split()[1:] == ["kB"]:
            kib[name] = int(value.split()[0])
    return Quick(kib.get("VmRSS", 0) + kib.get("HugetlbPages", 0), kib.get("VmSwap", 0))


def quick(pid: int, root: Path = ROOT) -> Quick:
    """Raises OSError where the process is gone."""
    return parse_status((root / f"proc/{pid}/status").read_text(encoding="utf-8", errors="replace"))


def mappings(pid: int, root: Path = ROOT) -> list[Mapping]:
    """All of a process. Raises OSError (another user's process: only root may look)."""
    with (root / f"proc/{pid}/smaps").open(encoding="utf-8", errors="replace") as file:
        return list(parse_smaps(file))


def cells_of(pid: int, root: Path = ROOT) -> dict[int, int]:
    """Cell -> KiB resident there; empty where the kernel knows no NUMA."""
    try:
        with (root / f"proc/{pid}/numa_maps").open(encoding="utf-8", errors="replace") as file:
            return parse_numa_maps(file)
    except OSError:
        return {}
