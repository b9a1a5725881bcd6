"""The bridges of this machine, which taps of VMs can be put into."""

from __future__ import annotations

from pathlib import Path

from services.node.host.identity import ROOT

INTERFACES = Path("sys/class/net")


def bridges(root: Path = ROOT) -> tuple[str, ...]:
    """Their names, sorted."""
    return tuple(sorted(p.parent.name for p in (root / INTERFACES).glob("*/bridge")))
