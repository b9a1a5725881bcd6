"""The guest's page tables, read entry by entry as its MMU does (x86-64, four or five levels). Pure but for the reader."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import msgspec

PRESENT, LARGE = 1, 1 << 7
FRAME = 0x000F_FFFF_FFFF_F000
LONG_MODE, FIVE_LEVELS, PAGING = 1 << 10, 1 << 12, 1 << 31
_REGISTER = re.compile(r"\b(CR0|CR3|CR4|EFER)=([0-9a-f]+)")
_DUMPED = re.compile(r":\s*0x([0-9a-f]+)\s*$")


class Tables(msgspec.Struct, frozen=True):
    """root: what CR3 points to; levels: 4 or 5."""

    root: int
    levels: int


class Walked(msgspec.Struct, frozen=True):
    gpa: int
    page_kib: int


def parse_registers(text: str) -> Tables | None:
    """From `info registers`; None: the vCPU is not in 64-bit mode with paging on."""
    found = {name: int(value, 16) for name, value in _REGISTER.findall(text)}
    if not (found.get("CR0", 0) & PAGING and found.get("EFER", 0) & LONG_MODE):
        return None
    return Tables(found.get("CR3", 0) & FRAME, 5 if found.get("CR4", 0) & FIVE_LEVELS else 4)


def parse_dumped(text: str) -> int | None:
    """The one word that `xp /1gx` printed."""
    match = _DUMPED.search(text.strip())
    return int(match[1], 16) if match else None


async def walk(read: Callable[[int], Awaitable[int | None]], tables: Tables, gva: int) -> Walked | None:
    """Where the tables lead; None: to no page. read: the entry at a guest-physical address, None where there is no memory."""
    table = tables.root
    for level in range(tables.levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        entry = await read(table + (gva >> shift & 511) * 8)
        if entry is None or not entry & PRESENT:
            return None
        if level == 1 or (level <= 3 and entry & LARGE):
            inside = (1 << shift) - 1
            return Walked((entry & FRAME & ~inside) | (gva & inside), (1 << shift) >> 10)
        table = entry & FRAME
    return None
