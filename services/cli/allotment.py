"""The options that say what a VM gets of its node beside its size, for all commands that take them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import units

_PCT_MAX = 51_200

CpuWeight = Annotated[
    int, typer.Option(help="Its part of CPU time among VMs that compete; default by class.", min=0, max=10_000)
]
CpuCap = Annotated[
    int, typer.Option(metavar="PCT", help="At most so much CPU time, in % of one pCPU.", min=0, max=_PCT_MAX)
]
CpuReserved = Annotated[
    int, typer.Option(metavar="PCT", help="CPU time that is always its own, in % of one pCPU.", min=0, max=_PCT_MAX)
]
MemoryReserved = Annotated[
    int | None, typer.Option(parser=units.mib, metavar="SIZE", help="Memory that is never taken back from it.")
]
Pins = Annotated[
    list[int] | None, typer.Option(metavar="PCPU", help="A host pCPU its vCPUs keep to; may be repeated.", min=0)
]
Together = Annotated[str, typer.Option(metavar="GROUP", help="On one node with all VMs of this group.")]
Apart = Annotated[str, typer.Option(metavar="GROUP", help="Never on a node with another VM of this group.")]

OneCell = Annotated[bool, typer.Option("--one-cell", help="All of it in one NUMA cell, or not at all.")]


def body(
    cpu_weight: int, cpu_cap: int, cpu_reserved: int, memory_reserved_mib: int | None, pins: list[int] | None,
    together: str, apart: str, one_cell: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """As the API takes it; only what was said."""
    said = {
        "cpu_weight": cpu_weight,
        "cpu_cap_pct": cpu_cap,
        "cpu_reserved_pct": cpu_reserved,
        "memory_reserved_mib": memory_reserved_mib or 0,
        "pins": pins or [],
        "together": together,
        "apart": apart,
        "one_cell": one_cell,
    }
    return {field: value for field, value in said.items() if value}
