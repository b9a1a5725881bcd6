"""The memory of this machine and its NUMA cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from services.node.host.identity import ROOT
from services.node.host.text import parse_list, read

CELLS = Path("sys/devices/system/node")


class Memory(msgspec.Struct, frozen=True):
    """MiB. available: what programs could have without swapping, as the kernel estimates it."""

    total_mib: int
    available_mib: int
    swap_mib: int
    hugepages_mib: int


class Cell(msgspec.Struct, frozen=True):
    """A NUMA node. distances: to every cell, in the cells' order, 10 to itself."""

    number: int
    pcpus: tuple[int, ...]
    total_mib: int
    free_mib: int
    distances: tuple[int, ...]
    available_mib: int = 0
    """free, and the page cache, which the kernel gives up for programs; memory that is shared has to stay"""


def parse_meminfo(text: str) -> dict[str, int]:
    """Name -> KiB (or a plain count). Lines of a cell's file begin with `Node N`, which is left out."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        words = value.split()
        if colon and words and words[0].isdigit():
            found[name.split()[-1]] = int(words[0])
    return found


def memory(root: Path = ROOT) -> Memory:
    """Of the whole machine; a container's limit is not looked at. Raises OSError where there is no /proc."""
    kib = parse_meminfo((root / "proc/meminfo").read_text())
    return Memory(
        total_mib=kib["MemTotal"] >> 10,
        available_mib=kib.get("MemAvailable", kib["MemFree"]) >> 10,
        swap_mib=kib.get("SwapTotal", 0) >> 10,
        hugepages_mib=kib.get("HugePages_Total", 0) * kib.get("Hugepagesize", 0) >> 10,
    )


def part_mib(share: int, root: Path = ROOT) -> int:
    """What a node has of this machine's memory where `share` nodes divide it. All of it: what the host and its modules keep of it
    is taken off once, by the ledger's areas."""
    return memory(root).total_mib // share


def cells(root: Path = ROOT) -> tuple[Cell, ...]:
    """By number; none where the kernel knows no NUMA."""
    folder = root / CELLS
    return tuple(_cell(folder / f"node{n}", n) for n in parse_list(read(folder / "online")))


def _cell(folder: Path, number: int) -> Cell:
    kib = parse_meminfo(read(folder / "meminfo"))
    return Cell(
        number=number,
        pcpus=parse_list(read(folder / "cpulist")),
        total_mib=kib.get("MemTotal", 0) >> 10,
        free_mib=kib.get("MemFree", 0) >> 10,
        distances=tuple(int(d) for d in read(folder / "distance").split()),
        available_mib=(kib.get("MemFree", 0) + max(0, kib.get("FilePages", 0) - kib.get("Shmem", 0))) >> 10,
    )


def available_of(wanted: Sequence[Collection[int]], root: Path = ROOT) -> tuple[int, ...]:
    """MiB that programs could have in the cell of each of these sets of pCPUs; empty where one of them is in no cell."""
    known = cells(root)
    found = [next((cell for cell in known if pcpus and set(pcpus) <= set(cell.pcpus)), None) for pcpus in wanted]
    return tuple(cell.available_mib for cell in found if cell is not None) if None not in found else ()
