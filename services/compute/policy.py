"""Where a VM may run: facts in, choice out. The same facts give the same choice, in the same order.

A node passes hard filters in a fixed order (`Filter`); the first that removes it is recorded, with its numbers for the nearest
misses. Those left get one score, a weighted sum of terms, each of them higher for the better node and 0 where nothing is known:

    fit         1 - L2 norm of what would be left free of CPU and memory: full nodes first, and those left full of both
    room        1 - L2 norm of what would be in use: one scarce resource weighs more than two half used
    lifetime    the part of the VM's expected life for which it alone would keep the node busy, negative
    numa        how much of it would not lie in the cell that has most of it left, negative
    health      what is missing to full health, negative
    contention  pCPUs wanted per pCPU above one that are expected there, and what VMs there wait already, negative, at most one

Spreading and packing are sets of weights. Scores are compared as whole millionths; equals are taken by name. This file is the
definition; index.py decides the same over columns, for many nodes (a property test holds the two together).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import sqrt

from libs.common.messages import NodeId, Value
from proto.compute import Candidate, Filter, Placement, Rejected
from proto.machine import Priority
from proto.networks import Bridge
from proto.placement import VCPUS_PER_PCPU_MAX, Removed, WeightSet, bitset
from services.compute.networks import Ground, lacks

HEALTH_PCT_MIN = 25
"""Below it a node gets no new VM; above, it gets one where the others are worse off."""

CELLS_MAX = 8
"""Cells of a node that are looked at; of a node with more, those that have most left."""

ATTEMPTS_MAX = 3
"""Nodes asked in one start. More than three denials in a row mean that the facts are wrong, not the luck."""

CANDIDATES_MAX = 5
"""Candidates recorded: a start asks `ATTEMPTS_MAX` nodes at most, and two more show by how little they lost."""

NAMED_MAX = 16
"""Nodes of a cluster of which every one removed is named; larger ones have bitsets and the nearest misses."""

REASONS_MAX = 4
"""Networks of which it is said why a node has not got them; a VM may have so many NICs."""

NEAREST_MAX = 3
"""Nearest misses named, of each filter with numbers."""

PRIORITIES = tuple(Priority)
"""Classes, in the order of `NodeFacts.ratios_pct`."""

CROWDED = 0.9
"""In use of CPU or memory over all open nodes. Beyond, nodes hardly ever empty and fragments cost starts: only the fit counts."""

BUSY_SHARE = 0.5
"""Of the vCPUs of a new VM, so many are expected to be runnable while nothing is known of it."""

CHANCE = 65536
"""`NodeFacts.ends` and `Wishes.lasts` are chances in these units: whole numbers, so that sums are the same on every machine."""

TERMS = ("fit", "room", "lifetime", "numa", "health", "contention")
"""The terms of the score, in the order in which they are summed up."""


class Weights(Value):
    """A policy as data: `name` is recorded with each choice and raised with each change that could choose another node."""

    name: str
    fit: float = 0.0
    room: float = 0.0
    lifetime: float = 0.0
    numa: float = 0.0
    health: float = 0.0
    contention: float = 0.0


SPREAD = Weights(name="spread-3", room=1.0, numa=0.25, health=1.0, contention=0.25)
"""For clusters that have nodes to spare: the emptiest first."""
PACK = Weights(name="pack-2", fit=1.0, lifetime=30.0, numa=0.5, health=30.0, contention=1.0)
"""For clusters that are to empty nodes: VMs that end together lie together; where that says nothing, the fullest first."""
WEIGHTS = {WeightSet.SPREAD: SPREAD, WeightSet.PACK: PACK}


class Wishes(Value):
    """What a VM needs of a node. guaranteed_mib: what of its memory, QEMU's own included, is never taken back; 0: all of it.
    node: only there, if given; source: the node that it is to leave. one_cell: all of it in one NUMA cell. vcpus_per_pcpu: the
    limit of its class; 0: that of the node. together, apart: group names; with_group: all of its `together` group is to follow it.
    lasts: the chance that it still runs at each of the horizons, weighted with the time since the one before; empty: unknown.
    new_disks: pools in which it is to have new ones, each once; MiB that they need there, beside what the pool keeps free; the word
    of the one pool of that name in which they need none. failover: memory that is kept for VMs of lost nodes is for it. moving: it
    runs already, and what high availability keeps by itself is for it. health_min: how healthy a node is to be."""

    vcpus: int
    memory_mib: int
    guaranteed_mib: int = 0
    priority: Priority = Priority.NORMAL
    pools: tuple[str, ...] = ()
    networks: tuple[Ground, ...] = ()
    firmware: tuple[str, ...] = ()
    node: str = ""
    source: str = ""
    cpu_reserved_pct: int = 0
    vcpus_per_pcpu: float = 0.0
    together: str = ""
    apart: str = ""
    with_group: bool = False
    one_cell: bool = False
    lasts: tuple[int, ...] = ()
    new_disks: tuple[tuple[str, int, str], ...] = ()
    failover: bool = False
    moving: bool = False
    health_min: int = HEALTH_PCT_MIN


class NodeFacts(Value):
    """What is known of a node: its share of the host's pCPUs (may be a fraction), what is promised, what it reaches. Of memory
    there are two sums below one capacity, as in libs/memory/promise.py: reserved, and charged by ratio (ratios_pct: by class).

    number          in the order of joining (proto/placement.py)
    reported        its agent has said hello; nothing is known of it before
    lost            it was declared lost, and is not back
    vcpus_per_pcpu  the limit of over-allocation: the node's, or a lower one of a class of which there are VMs
    memory_ha_mib   beside the capacity, what is kept for the VMs of a failed node; memory_moves_mib: of that, what high
                    availability keeps by itself
    cells           what is left in each NUMA cell: vCPUs that may float there, MiB; empty: one cell, or not known
    together, apart groups of the VMs there
    health          100 healthy … 0 not to be used, as last reported; health_reason: why it is less than 100
    load            pCPUs that are wanted there: runnable threads of the host, or what its VMs use and wait for; 0: not known
    ready_pct       of the CPU time that its VMs wanted, what they waited for; steal_pct: of the host's, what its own host took
    pool_rooms      of each pool that it told of lately: MiB that are free beside what the pool keeps; negative: less than that
    ends            the chance that all VMs of today have ended by each of the horizons; empty: that it is empty already
    """

    node: NodeId
    online: bool
    cordoned: bool
    pcpus: float
    vcpus_promised: int
    memory_capacity_mib: int
    memory_reserved_mib: int
    memory_charged_mib: int = 0
    ratios_pct: tuple[int, ...] = (100,) * len(PRIORITIES)
    pools: tuple[str, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    tap_filter: bool = False
    firmware: tuple[str, ...] = ()
    number: int = 0
    vcpus_per_pcpu: float = VCPUS_PER_PCPU_MAX
    cpu_reserved_pct: int = 0
    memory_ha_mib: int = 0
    memory_moves_mib: int = 0
    cells: tuple[tuple[int, int], ...] = ()
    together: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    health: int = 100
    health_reason: str = ""
    load: float = 0.0
    ready_pct: int = 0
    steal_pct: int = 0
    reported: bool = True
    lost: bool = False
    ends: tuple[int, ...] = ()
    pool_rooms: tuple[tuple[str, int], ...] = ()


def vcpus_max(node: NodeFacts, of_class: float = 0.0) -> int:
    """vCPUs that may be promised on a node; one at least, or a share below an eighth of a pCPU could run nothing.
    of_class: the limit of the class of a VM that is to come; 0: none."""
    ratio = min(node.vcpus_per_pcpu, of_class) if of_class else node.vcpus_per_pcpu
    return max(1, int(node.pcpus * ratio))


def is_open(node: NodeFacts) -> bool:
    """It takes new VMs, as far as it is for itself to say."""
    return node.reported and node.online and not (node.lost or node.cordoned) and node.health >= HEALTH_PCT_MIN


def reservable_pct(node: NodeFacts) -> int:
    """pCPU time that VMs may reserve there, in percent of one pCPU."""
    return int(node.pcpus * 100)


def place(
    wish: Wishes, facts: Iterable[NodeFacts], tried: Sequence[str] = (), weights: Weights = SPREAD, nodes: int = 0
) -> Placement:
    """Candidates best first, and why each other node is none. nodes: how many numbers are given; 0: up to
    the highest that is here."""
    all = sorted(facts, key=lambda n: n.node)
    settled = bool(wish.together) and not wish.with_group and any(wish.together in n.together for n in all)
    removed = {n.node: _removed(wish, n, tried, settled) for n in all}
    if crowded(all):
        weights = plain(weights)
    scored = [_scored(wish, n, weights) for n in all if removed[n.node] is None]
    scored.sort(key=lambda c: (-c.score, c.node))
    lost = [(n.number, r) for n in all if (r := removed[n.node]) is not None]
    name, best, passed = weights.name, tuple(scored[:CANDIDATES_MAX]), len(scored)
    nodes = nodes or 1 + max((n.number for n in all), default=-1)
    if len(all) <= NAMED_MAX:
        named = tuple(r for _, r in lost)
        return Placement(policy=name, candidates=best, rejected=named, passed=passed, nodes=nodes)
    named = tuple(r for f in Filter for r in nearest(f, [r for _, r in lost if r.filter is f], bool(scored)))
    sets = ((f, _bits([n for n, r in lost if r.filter is f], nodes)) for f in Filter)
    bits = tuple(Removed(filter=f, numbers=bitset(b)) for f, b in sets if any(b))
    return Placement(policy=name, candidates=best, rejected=named, passed=passed, nodes=nodes, removed=bits)


def _removed(wish: Wishes, node: NodeFacts, tried: Sequence[str], settled: bool) -> Rejected | None:
    """The first filter that removes the node. TRIED stands early so that a placement always names all nodes tried."""
    for filter, needed, available in _needs(wish, node, tried, settled):
        if needed > available:
            reason = reason_of(filter, wish, node)
            return Rejected(node=node.node, filter=filter, needed=needed, available=max(0, available), reason=reason)
    return None


def reason_of(filter: Filter, wish: Wishes, node: NodeFacts) -> str:
    """What is said beside the numbers."""
    match filter:
        case Filter.HEALTH:
            return node.health_reason
        case Filter.NETWORK:
            return "; ".join(lacks(wish.networks, node.bridges, node.tap_filter)[:REASONS_MAX])
        case _:
            return ""


Need = tuple[Filter, int, int]


def _needs(wish: Wishes, node: NodeFacts, tried: Sequence[str], settled: bool) -> Iterator[Need]:
    """Filter, needed, available. Yes-or-no filters need what is asked of them out of nothing, or nothing."""
    yield Filter.NOT_ASKED, 0, -1 if wish.node and node.node != wish.node else 0
    yield Filter.SOURCE, 0, -1 if node.node == wish.source else 0
    yield Filter.TRIED, 0, -1 if node.node in tried else 0
    yield Filter.NEVER_REPORTED, 0, 0 if node.reported else -1
    yield Filter.LOST, 0, -1 if node.lost else 0
    yield Filter.OFFLINE, 0, 0 if node.online else -1
    yield Filter.CORDONED, 0, -1 if node.cordoned else 0
    yield Filter.HEALTH, wish.health_min, node.health
    yield Filter.POOL, len(set(wish.pools) - set(node.pools)), 0
    yield Filter.POOL_FULL, *pool_fit(wish, node)
    yield Filter.NETWORK, len(lacks(wish.networks, node.bridges, node.tap_filter)), 0
    yield Filter.FIRMWARE, len(set(wish.firmware) - set(node.firmware)), 0
    yield Filter.APART, 0, -1 if wish.apart and wish.apart in node.apart else 0
    yield Filter.TOGETHER, 0, -1 if settled and wish.together not in node.together else 0
    if wish.one_cell and node.cells:
        yield Filter.NUMA, 0, -1 if misfit(wish, node) else 0
    yield Filter.CPU_LIMIT, wish.vcpus, vcpus_max(node, wish.vcpus_per_pcpu) - node.vcpus_promised
    if wish.cpu_reserved_pct:
        yield Filter.CPU, wish.cpu_reserved_pct, reservable_pct(node) - node.cpu_reserved_pct
    needed_mib, free_mib = memory_fit(wish, node)
    more_mib = node.memory_ha_mib if wish.failover else node.memory_moves_mib if wish.moving else 0
    short = Filter.MEMORY if needed_mib > free_mib + node.memory_ha_mib else Filter.HA_RESERVE
    yield short, needed_mib, free_mib + more_mib


def pool_fit(wish: Wishes, node: NodeFacts) -> tuple[int, int]:
    """Needed and free MiB, of the pool that is nearest to lack room for the VM's new disks; the first of equals."""
    rooms = dict(node.pool_rooms)
    wanted = ((pool, mib) for pool, mib, home in wish.new_disks if not home or f"{pool}@{home}" not in node.pools)
    fits = [(mib, rooms[pool]) for pool, mib in wanted if pool in rooms]
    return max(fits, key=lambda fit: fit[0] - fit[1], default=(0, 0))


def memory_fit(wish: Wishes, node: NodeFacts) -> tuple[int, int]:
    """Needed and free MiB, of the limit of the ledger that is nearer to break."""
    guaranteed = wish.guaranteed_mib or wish.memory_mib
    charged = wish.memory_mib * 100 // node.ratios_pct[PRIORITIES.index(wish.priority)]
    free_guaranteed = node.memory_capacity_mib - node.memory_reserved_mib
    free_charged = node.memory_capacity_mib - node.memory_charged_mib
    if charged - free_charged > guaranteed - free_guaranteed:
        return charged, free_charged
    return guaranteed, free_guaranteed


WITH_NUMBERS = (Filter.POOL_FULL, Filter.CPU_LIMIT, Filter.CPU, Filter.MEMORY, Filter.HA_RESERVE)
NAMES_MAX = 5
"""Nodes named in one sentence."""


def nearest(filter: Filter, rows: Sequence[Rejected], chosen: bool) -> Sequence[Rejected]:
    """Those of one filter that are named in a large cluster; where nothing was chosen, those that the refusal's sentence names."""
    if filter in (Filter.TRIED, Filter.SOURCE):
        return rows
    if filter in WITH_NUMBERS:
        rows = sorted(rows, key=lambda r: (r.needed - r.available, r.node))
        return rows[: NEAREST_MAX if chosen else NAMES_MAX]
    return () if chosen else rows[:NAMES_MAX]


def _bits(numbers: Sequence[int], nodes: int) -> bytes:
    bits = bytearray((nodes + 7) // 8)
    for n in numbers:
        bits[n >> 3] |= 128 >> (n & 7)
    return bytes(bits)


def crowded(nodes: Sequence[NodeFacts]) -> bool:
    """Whether more than CROWDED of the open nodes' CPU or memory is promised."""
    open = [n for n in nodes if is_open(n)]
    cpu = sum(n.vcpus_promised for n in open) > CROWDED * sum(vcpus_max(n) for n in open)
    memory = max(sum(n.memory_reserved_mib for n in open), sum(n.memory_charged_mib for n in open))
    return cpu or memory > CROWDED * sum(n.memory_capacity_mib for n in open)


def plain(weights: Weights) -> Weights:
    """The same set without the lifetime."""
    return Weights(
        name=weights.name, fit=weights.fit, room=weights.room, numa=weights.numa, health=weights.health,
        contention=weights.contention,
    )  # fmt: skip


def misfit(wish: Wishes, node: NodeFacts) -> float:
    """The part of the VM that not even the cell with most of it left could hold; 0 where cells are not known."""
    if not node.cells:
        return 0.0
    vcpus, mib = max(1, wish.vcpus), max(1, wish.memory_mib)
    return 1.0 - min(1.0, max(min(cell[0] / vcpus, cell[1] / mib) for cell in node.cells))


def _scored(wish: Wishes, node: NodeFacts, weights: Weights) -> Candidate:
    """Used fractions have this VM counted in. The order of each calculation is index.py's, to the last bit."""
    cpu = (node.vcpus_promised + wish.vcpus) / vcpus_max(node)
    needed, free = memory_fit(wish, node)
    memory = (node.memory_capacity_mib + (needed - free)) / max(1, node.memory_capacity_mib)
    cpu_left, memory_left = 1.0 - cpu, 1.0 - memory
    values = {
        "fit": 1.0 - sqrt((cpu_left * cpu_left + memory_left * memory_left) / 2),
        "room": 1.0 - sqrt((cpu * cpu + memory * memory) / 2),
        "lifetime": -alone(wish.lasts, node.ends),
        "numa": -misfit(wish, node),
        "health": (node.health - 100) / 100,
        "contention": -contention(wish, node),
    }
    return candidate(node.node, cpu, memory, values, weights)


def candidate(node: NodeId, cpu: float, memory: float, values: dict[str, float], weights: Weights) -> Candidate:
    """The weighted sum, in whole millionths, and the terms that weigh anything and are not 0."""
    score = 0.0
    terms = {"cpu_used": round(cpu, 6), "memory_used": round(memory, 6)}
    for term, value in values.items():
        score += getattr(weights, term) * value
        if getattr(weights, term) and round(value, 6):
            terms[term] = round(value, 6)
    return Candidate(node=node, score=round(score * 1e6) / 1e6, terms=terms)


def alone(lasts: Sequence[int], ends: Sequence[int]) -> float:
    """The part of the VM's expected life in which it would be the only one left on the node."""
    if not lasts:
        return 0.0
    all = sum(lasts) * CHANCE
    return sum(a * b for a, b in zip(lasts, ends or (CHANCE,) * len(lasts), strict=True)) / max(1, all)


def contention(wish: Wishes, node: NodeFacts) -> float:
    """pCPUs wanted per pCPU that is really there, above one, with half of the new vCPUs; and what those that are there wait
    already. 0 where nothing is known of the node."""
    if not (node.load or node.ready_pct):
        return 0.0
    there = max(0.01, node.pcpus * ((100 - node.steal_pct) / 100))
    expected = (node.load + BUSY_SHARE * wish.vcpus) / there
    return min(1.0, max(0.0, expected - 1.0) + node.ready_pct / 100)
