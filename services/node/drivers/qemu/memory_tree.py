"""What QEMU says of the guest's physical address space (`info mtree`), and which of it is the VM's memory. Pure.

The flattened view (`info mtree -f`) would be easier to read, and is not asked for: each time it is, QEMU 7.2 keeps a reference to
every device that the guest has mapped, so that one unplugged later never lets go of its disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from proto.mapping import REGIONS_MAX, Backing, Region

SPACE = "address-space: memory"
GIB4 = 4 << 30
_LINE = re.compile(r"^( +)([0-9a-f]{16})-([0-9a-f]{16}) \(prio (-?\d+), ([^)]+)\): (.*?)\s*$")
_ALIAS = re.compile(r"^alias \S.*? @(\S.*?) ([0-9a-f]{16})-[0-9a-f]{16}$")
_INDENT = 2


class Range(msgspec.Struct, frozen=True):
    """first to last; kind: `ram`, `rom`, `i/o` …; name: of the block; offset: of `first` in it. rank: its priority, below those of
    all that it lies in: of several at one address the highest counts."""

    first: int
    last: int
    kind: str
    name: str
    offset: int
    rank: tuple[int, ...] = ()

    @property
    def is_memory(self) -> bool:
        return self.kind in ("ram", "rom", "romd", "nv-ram")


def parse(text: str) -> tuple[Range, ...]:
    """What lies in the address space `memory` and is not disabled; nothing where that is not in the text."""
    found: list[Range] = []
    ranks: list[int] = []
    lines = iter(text.splitlines())
    if not any(line.rstrip() == SPACE for line in lines):
        return ()
    for line in lines:
        if (match := _LINE.match(line)) is None:
            break
        indent, first, last, priority, kind, name = match.groups()
        depth = len(indent) // _INDENT
        ranks[depth - 1 :] = [int(priority)]
        if name.endswith("[disabled]") or depth == 1:
            continue
        alias = _ALIAS.match(name)
        block, offset = (alias[1], int(alias[2], 16)) if alias else (name, 0)
        found.append(Range(int(first, 16), int(last, 16), kind, block, offset, tuple(ranks[1:])))
    return tuple(found)


def at(view: Sequence[Range], address: int) -> Range | None:
    return max((r for r in view if r.first <= address <= r.last), key=lambda r: r.rank, default=None)


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
