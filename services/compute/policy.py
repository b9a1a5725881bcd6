"""Where a VM may run: facts in, choice out. The same facts give the same choice, in the same order.

A node passes hard filters in a fixed order; the first that removes it is recorded with its numbers. Those left are scored by
how full the fuller of their resources would be (quadratic mean of CPU and memory use: one scarce resource weighs more than two
half used), emptiest first; equals are taken by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

from libs.common.messages import NodeId, Value
from proto.compute import Candidate, Filter, Placement, Rejected

POLICY = "spread-1"
"""Name and version of the rules below; raised with each change that could choose another node."""

VCPUS_PER_PCPU_MAX = 8.0
"""vCPUs promised per pCPU of a node's share: idle guests share well up to here, and busy ones still get an eighth."""

ATTEMPTS_MAX = 3
"""Nodes asked in one start. More than three denials in a row mean that the facts are wrong, not the luck."""

NAMES_MAX = 5
"""Nodes named in one sentence; the recorded placement has all."""


class Wishes(Value):
    """What a VM needs of a node. guaranteed_mib: what of its memory, QEMU's own included, is never taken back; 0: all of it.
    node: only there, if given."""

    vcpus: int
    memory_mib: int
    guaranteed_mib: int = 0
    pools: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    node: str = ""


class NodeFacts(Value):
    """What is known of a node: its share of the host's pCPUs (may be a fraction), what is promised, what it reaches.
    Of memory there are two sums below one capacity, as in libs/memory/promise.py: reserved, and charged by ratio
    (ratio_pct: that of the class of the VM that is asked for)."""

    node: NodeId
    online: bool
    cordoned: bool
    pcpus: float
    vcpus_promised: int
    memory_capacity_mib: int
    memory_reserved_mib: int
    memory_charged_mib: int = 0
    ratio_pct: int = 100
    pools: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()


def vcpus_max(node: NodeFacts) -> int:
    """vCPUs that may be promised on a node; one at least, or a share below an eighth of a pCPU could run nothing."""
    return max(1, int(node.pcpus * VCPUS_PER_PCPU_MAX))


def place(wish: Wishes, facts: Iterable[NodeFacts], tried: Sequence[str] = ()) -> Placement:
    """Candidates best first, and why each other node is none."""
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    for node in sorted(facts, key=lambda n: n.node):
        removed = _removed(wish, node, tried)
        if removed is None:
            candidates.append(_scored(wish, node))
        else:
            rejected.append(removed)
    candidates.sort(key=lambda c: (-c.score, c.node))
    return Placement(policy=POLICY, candidates=tuple(candidates), rejected=tuple(rejected))


def _removed(wish: Wishes, node: NodeFacts, tried: Sequence[str]) -> Rejected | None:
    """The first filter that removes the node. TRIED stands early so that a placement always names all nodes tried."""
    vcpus_free = vcpus_max(node) - node.vcpus_promised
    if wish.node and node.node != wish.node:
        return Rejected(node=node.node, filter=Filter.NOT_ASKED)
    if node.node in tried:
        return Rejected(node=node.node, filter=Filter.TRIED)
    if not node.online:
        return Rejected(node=node.node, filter=Filter.OFFLINE)
    if node.cordoned:
        return Rejected(node=node.node, filter=Filter.CORDONED)
    if missing := len(set(wish.pools) - set(node.pools)):
        return Rejected(node=node.node, filter=Filter.POOL, needed=missing, available=0)
    if missing := len(set(wish.bridges) - set(node.bridges)):
        return Rejected(node=node.node, filter=Filter.BRIDGE, needed=missing, available=0)
    if wish.vcpus > vcpus_free:
        return Rejected(node=node.node, filter=Filter.CPU, needed=wish.vcpus, available=max(0, vcpus_free))
    needed, free = memory_fit(wish, node)
    if needed > free:
        return Rejected(node=node.node, filter=Filter.MEMORY, needed=needed, available=max(0, free))
    return None


def memory_fit(wish: Wishes, node: NodeFacts) -> tuple[int, int]:
    """Needed and free MiB, of the limit of the ledger that is nearer to break."""
    guaranteed = wish.guaranteed_mib or wish.memory_mib
    charged = wish.memory_mib * 100 // node.ratio_pct
    free_guaranteed = node.memory_capacity_mib - node.memory_reserved_mib
    free_charged = node.memory_capacity_mib - node.memory_charged_mib
    if charged - free_charged > guaranteed - free_guaranteed:
        return charged, free_charged
    return guaranteed, free_guaranteed


def _scored(wish: Wishes, node: NodeFacts) -> Candidate:
    """1 is an empty node, 0 one that is full of both. Terms are used fractions with this VM counted in."""
    cpu = (node.vcpus_promised + wish.vcpus) / vcpus_max(node)
    needed, free = memory_fit(wish, node)
    memory = (node.memory_capacity_mib - free + needed) / max(1, node.memory_capacity_mib)
    score = 1 - sqrt((cpu * cpu + memory * memory) / 2)
    terms = {"cpu_used": round(cpu, 6), "memory_used": round(memory, 6)}
    return Candidate(node=node.node, score=round(score, 6), terms=terms)


_SAID = {
    Filter.NOT_ASKED: "not asked for",
    Filter.TRIED: "already tried in this start",
    Filter.OFFLINE: "offline",
    Filter.CORDONED: "cordoned",
    Filter.POOL: "without a storage pool it needs",
    Filter.BRIDGE: "without a network bridge it needs",
    Filter.CPU: "short of vCPUs",
    Filter.MEMORY: "short of memory",
}
_UNIT = {Filter.CPU: "vCPUs", Filter.MEMORY: "MiB"}


def explain(placement: Placement, asked: str = "") -> tuple[str, str]:
    """Why nothing fits, by filter and with the numbers, and what would make it fit."""
    groups = {f: [r for r in placement.rejected if r.filter is f] for f in _SAID}
    parts = [_said(f, rows) for f, rows in groups.items() if rows and not (asked and f is Filter.NOT_ASKED)]
    if not parts:
        if asked:
            return f"no node is named {asked}", "name a node that `node ls` shows, or none"
        return "the cluster has no nodes", "join a node"
    return "no node fits: " + "; ".join(parts), _remedy(groups)


def _said(filter: Filter, rows: Sequence[Rejected]) -> str:
    unit = _UNIT.get(filter)
    said = [f"{r.node} ({r.available} of {r.needed} {unit} free)" if unit else r.node for r in rows[:NAMES_MAX]]
    if len(rows) > NAMES_MAX:
        said.append(f"{len(rows) - NAMES_MAX} more")
    return f"{_SAID[filter]}: {', '.join(said)}"


def _remedy(groups: dict[Filter, list[Rejected]]) -> str:
    """The smallest change that would let one node pass; the nearest miss first."""
    for filter in (Filter.MEMORY, Filter.CPU):
        if rows := groups[filter]:
            best = min(rows, key=lambda r: (r.needed - r.available, r.node))
            lacking = best.needed - best.available
            return f"free {lacking} {_UNIT[filter]} on {best.node}, or ask for {lacking} less"
    if rows := groups[Filter.CORDONED]:
        return f"uncordon {rows[0].node}"
    if rows := groups[Filter.OFFLINE]:
        return f"bring {rows[0].node} back: its agent has not been heard for some seconds"
    if groups[Filter.POOL] or groups[Filter.BRIDGE]:
        return "add the pool or bridge to a node, or define the VM with one that a node has"
    return "start it again; ask for no certain node"
