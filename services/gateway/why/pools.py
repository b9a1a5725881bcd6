"""One sentence for an event about a pool, or a VM that waits for room in one. Pure."""

from __future__ import annotations

from typing import Any

from proto.pools import PoolSet
from proto.space import VmRanOutOfSpace, VmSpaceRegained, said


def of_pools(event: Any) -> str:
    match event:
        case PoolSet(pool=pool, rules=rules):
            over = f"disks of at most {rules.over:g} times its size" if rules.over else "disks of any size together"
            return f"the pool {pool} may hold {over}, and takes none with less than {rules.keep_free_pct} % free"
        case VmRanOutOfSpace(node=node, disks=disks):
            return f"{node} saw it stand still: {said(disks)}"
        case VmSpaceRegained():
            return "there was room again, and it was seen to go on"
        case _:
            return ""
