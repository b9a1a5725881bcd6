"""What QEMU says of the guest's physical address space (`info mtree -f`), and which of it is the VM's memory. Pure.

A VM's memory is few runs of addresses, but the view shows each hole: pieces of one block at one distance are one region.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from proto.mapping import REGIONS_MAX, Backing, Region

SYSTEM = '"memory"'
GIB4 = 4 << 30
_LINE = re.compile(
    r"^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([^)]+)\): (.*?)(?: @([0-9a-f]{16}))?(?: KVM)?\s*$"
)


class Range(msgspec.Struct, frozen=True):
    """first to last; kind: `ram`, `rom`, `i/o` …; name: of the block; offset: of `first` in it."""

    first: int
    last: int
    kind: str
    name: str
    offset: int

    @property
    def is_memory(self) -> bool:
        return self.kind in ("ram", "rom", "romd", "nv-ram")


def parse(text: str) -> tuple[Range, ...]:
    """The flat view of the address space `memory`; none where it is not in the text."""
    found: list[Range] = []
    here = False
    for line in text.splitlines():
        if line.startswith("FlatView"):
            if found:
                break
            here = False
        elif f"AS {SYSTEM}," in line:
            here = True
        elif here and (match := _LINE.match(line)) is not None:
            first, last, kind, name, offset = match.groups()
            found.append(Range(int(first, 16), int(last, 16), kind, name, int(offset or "0", 16)))
    return tuple(found)


def at(view: Sequence[Range], address: int) -> Range | None:
    return next((r for r in view if r.first <= address <= r.last), None)


def regions(view: Sequence[Range], backends: Sequence[Mapping[str, Any]], dirty_tracking: bool) -> tuple[Region, ...]:
    """backends: what query-memdev says; only their blocks are the VM's memory (a screen's is a device's)."""
    known = {str(b.get("id")): b for b in backends}
    runs: dict[tuple[str, int], tuple[int, int]] = {}
    for piece in view:
        if piece.is_memory and piece.name in known:
            key = (piece.name, piece.first - piece.offset)
            first, last = runs.get(key, (piece.first, piece.last))
            runs[key] = (min(first, piece.first), max(last, piece.last))
    made = [_region(name, run, known[name], dirty_tracking) for (name, _), run in runs.items()]
    return tuple(sorted(made, key=lambda region: region.guest_address))[:REGIONS_MAX]


def _region(block: str, run: tuple[int, int], backend: Mapping[str, Any], dirty_tracking: bool) -> Region:
    first, last = run
    name = block
    if block == "pc.ram":
        name = "below-4g" if first < GIB4 else "above-4g"
    cells = backend.get("host-nodes") or []
    return Region(
        name=name,
        guest_address=first,
        size_mib=(last + 1 - first) >> 20,
        backing=_backing(backend),
        cell=int(cells[0]) if len(cells) == 1 else -1,
        dirty_tracking=dirty_tracking,
    )


def _backing(backend: Mapping[str, Any]) -> Backing:
    if backend.get("hugetlb"):
        return Backing.HUGEPAGES
    return Backing.FILE if backend.get("mem-path") else Backing.ANONYMOUS
