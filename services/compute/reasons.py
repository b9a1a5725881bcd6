"""A placement in sentences: why nothing fits, and what would make it fit."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from proto.compute import Filter, Placement, Refusal, Rejected
from proto.placement import removed_by
from services.compute.policy import NAMES_MAX

_SAID = {
    Filter.NOT_ASKED: "not asked for",
    Filter.SOURCE: "which it is to leave",
    Filter.TRIED: "already tried in this start",
    Filter.NEVER_REPORTED: "joined, but never heard of",
    Filter.LOST: "declared lost and not back yet",
    Filter.OFFLINE: "offline",
    Filter.CORDONED: "cordoned",
    Filter.HEALTH: "not healthy enough for a start",
    Filter.POOL: "without a storage pool it needs (its disks are only where it ran last), or the key of a backup that it stands on",
    Filter.POOL_FULL: "with a full pool where it is to have new disks",
    Filter.NETWORK: "without a network it needs",
    Filter.FIRMWARE: "without UEFI firmware",
    Filter.APART: "with a VM that it is to be apart from",
    Filter.TOGETHER: "without the VMs that it is to run together with",
    Filter.NUMA: "without one NUMA cell that holds it",
    Filter.CPU_LIMIT: "short of vCPUs",
    Filter.CPU: "short of CPU time to reserve",
    Filter.MEMORY: "short of memory",
    Filter.HA_RESERVE: "short of memory beside what is kept for a failed node's VMs",
}
_UNIT = {Filter.CPU_LIMIT: "vCPUs", Filter.CPU: "% of a pCPU"}
_UNIT |= dict.fromkeys((Filter.POOL_FULL, Filter.MEMORY, Filter.HA_RESERVE), "MiB")


def chosen(choice: Placement | None, asked: str, unknown: str) -> Placement:
    """The choice, where there is one with a candidate. unknown: why there may be none yet. Raises Refused."""
    if choice is None:
        raise Refused(Refusal.BUSY, unknown, "ask again")
    if not choice.candidates:
        raise Refused(Refusal.NO_NODE_FITS, *explain(choice, asked))
    return choice


def explain(placement: Placement, asked: str = "") -> tuple[str, str]:
    """Why nothing fits, by filter and with the numbers, and what would make it fit."""
    groups = {f: [r for r in placement.rejected if r.filter is f] for f in _SAID}
    counts = {f: removed_by(placement, f) for f in groups}
    parts = [_said(f, groups[f], n) for f, n in counts.items() if n and not (asked and f is Filter.NOT_ASKED)]
    if not parts:
        if asked:
            return f"no node is named {asked}", "name a node that `node ls` shows, or none"
        return "the cluster has no nodes", "join a node"
    return "no node fits: " + "; ".join(parts), _remedy(groups)


def _said(filter: Filter, rows: Sequence[Rejected], count: int) -> str:
    unit = _UNIT.get(filter)
    said = [_named(r, unit) for r in rows[:NAMES_MAX]]
    if count > len(said):
        said.append(f"{count - len(said)} more")
    return f"{_SAID[filter]}: {', '.join(said)}"


def _named(row: Rejected, unit: str | None) -> str:
    if row.filter is Filter.HEALTH:
        return f"{row.node} (at {row.available} %, {row.needed} needed{': ' + row.reason if row.reason else ''})"
    if row.filter is Filter.NETWORK and row.reason:
        return f"{row.node} ({row.reason})"
    return f"{row.node} ({row.available} of {row.needed} {unit} free)" if unit else row.node


def _remedy(groups: dict[Filter, list[Rejected]]) -> str:
    """The smallest change that would let one node pass; the nearest miss first."""
    if rows := groups[Filter.POOL_FULL]:
        best = min(rows, key=lambda r: (r.needed - r.available, r.node))
        return f"free {max(1, best.needed - best.available)} MiB in the pool on {best.node}, or take another pool (asvctl pool ls)"
    for filter in (Filter.HA_RESERVE, Filter.MEMORY, Filter.CPU, Filter.CPU_LIMIT):
        if rows := groups[filter]:
            best = min(rows, key=lambda r: (r.needed - r.available, r.node))
            lacking = best.needed - best.available
            return f"free {lacking} {_UNIT[filter]} on {best.node}, or ask for {lacking} less"
    if groups[Filter.NUMA]:
        return f"ask for less than a cell of {groups[Filter.NUMA][0].node} has free, or not for one cell"
    if rows := groups[Filter.TOGETHER] or groups[Filter.APART]:
        return f"add a node, or take it out of the group that keeps it from {rows[0].node}"
    if rows := groups[Filter.CORDONED]:
        return f"uncordon {rows[0].node}"
    if rows := groups[Filter.LOST]:
        return f"bring {rows[0].node} back: it serves again once it has ended what is no longer its own"
    if rows := groups[Filter.OFFLINE]:
        return f"bring {rows[0].node} back: its agent has not been heard for some seconds"
    if rows := groups[Filter.HEALTH]:
        return f"see what is wrong with {rows[0].node}"
    if rows := groups[Filter.NEVER_REPORTED]:
        return f"start the agent of {rows[0].node}"
    if rows := groups[Filter.FIRMWARE]:
        return f"install OVMF (the package ovmf) on {rows[0].node}, or define the VM with bios"
    if groups[Filter.NETWORK]:
        return "give a node that bridge, or put the VM's NIC into a network that nodes have (asvctl network show)"
    if groups[Filter.POOL]:
        return "add the pool to a node, or define the VM with one that a node has"
    return "start it again; ask for no certain node"
