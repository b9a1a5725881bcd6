"""How much is to be kept free, and where. Pure.

Any N nodes may be lost. What their VMs take has to fit into what is kept on the others, so that with a share s(n) on each node and a
demand d(n) of its VMs, for every set F of N nodes

    sum of s outside F  >=  sum of d in F        which is        sum of all s  >=  sum over F of (s + d)

and the worst F is that of the N largest s + d. All nodes keep the same level, as far as they have it free, and the level is the lowest
that holds: the left side rises with it no slower than the right. Beside that there is room for VMs that are owed already. Memory is
taken as if it could be divided at will; what is too large for every share is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proto.lease import HaSettings, Reserve
from proto.reserve import Plan

STEP_MIB = 32
"""levels are whole multiples, so that a small VM more or less seldom moves them"""
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Room:
    """capacity_mib: of its ledger; taken_mib: what is promised of it; demand_mib: of its VMs that would be started elsewhere, the
    largest of them largest_mib."""

    capacity_mib: int
    taken_mib: int
    demand_mib: int = 0
    largest: str = ""
    largest_mib: int = 0

    @property
    def free_mib(self) -> int:
        return max(0, self.capacity_mib - self.taken_mib)


def plan(
    settings: HaSettings, rooms: Mapping[str, Room], away: Iterable[str] = (), waiting_mib: int = 0
) -> Plan:
    """rooms: of nodes that take VMs. away: nodes that do not, for they are lost or being emptied."""
    gone = tuple(sorted(away))
    base = Plan(
        kind=settings.reserve, nodes=settings.reserve_nodes, pct=settings.reserve_pct, away=gone, waiting_mib=waiting_mib
    )
    match settings.reserve:
        case Reserve.NONE:
            return _told(base, rooms, dict.fromkeys(rooms, 0), 0)
        case Reserve.PERCENT:
            shares = {n: min(r.free_mib, r.capacity_mib * settings.reserve_pct // 100) for n, r in rooms.items()}
            short_mib = sum(r.capacity_mib * settings.reserve_pct // 100 - shares[n] for n, r in rooms.items())
            return _told(base, rooms, shares, 0, short_mib)
        case Reserve.NODES:
            wanted = max(0, settings.reserve_nodes - len(gone))
            shares = _level(rooms, wanted, waiting_mib)
            return _told(base, rooms, shares, wanted)


def _level(rooms: Mapping[str, Room], wanted: int, waiting_mib: int) -> dict[str, int]:
    """The lowest level at which it holds; all that is free where it never does. Nothing is kept that no loss could use: by a node
    alone, for others."""
    most = max((room.free_mib for room in rooms.values()), default=0)
    if len(rooms) <= wanted:
        return dict.fromkeys(rooms, 0) if not waiting_mib else _at(rooms, most)
    low, high = 0, -(-most // STEP_MIB)
    while low < high:
        middle = (low + high) // 2
        if lacking(rooms, _at(rooms, middle * STEP_MIB), wanted, waiting_mib) <= 0:
            high = middle
        else:
            low = middle + 1
    return _at(rooms, low * STEP_MIB)


def _at(rooms: Mapping[str, Room], level_mib: int) -> dict[str, int]:
    return {name: min(room.free_mib, level_mib) for name, room in rooms.items()}


def lacking(rooms: Mapping[str, Room], shares: Mapping[str, int], lost: int, waiting_mib: int = 0) -> int:
    """MiB that are not there for the VMs of the worst `lost` nodes and those that wait; 0 or less: they fit."""
    worst = sorted((shares[n] + r.demand_mib for n, r in rooms.items()), reverse=True)[:lost]
    return sum(worst) + waiting_mib - sum(shares.values())


def covered(rooms: Mapping[str, Room], shares: Mapping[str, int], waiting_mib: int = 0) -> int:
    """How many nodes may be lost, whichever they are."""
    lost = 0
    while lost + 1 < len(rooms) and lacking(rooms, shares, lost + 1, waiting_mib) <= 0:
        lost += 1
    return lost


def _told(base: Plan, rooms: Mapping[str, Room], shares: dict[str, int], wanted: int, short_mib: int = 0) -> Plan:
    covers = covered(rooms, shares, base.waiting_mib)
    missing_mib = max(0, short_mib, lacking(rooms, shares, wanted, base.waiting_mib) if wanted or base.waiting_mib else 0)
    demand_mib = sum(sorted((r.demand_mib for r in rooms.values()), reverse=True)[: max(1, wanted)])
    too_large = tuple(r.largest for n, r in sorted(rooms.items()) if wanted and r.largest_mib > _elsewhere(shares, n))
    said = []
    if wanted and covers < wanted:
        said.append(_short(rooms, wanted, covers, missing_mib))
    elif missing_mib:
        said.append(f"{missing_mib} MiB that were to be kept are not free")
    if too_large:
        more = f" and {len(too_large) - NAMED_MAX} more" if len(too_large) > NAMED_MAX else ""
        said.append(f"{', '.join(too_large[:NAMED_MAX])}{more} would fit into no other node's share in one piece")
    return Plan(
        kind=base.kind, nodes=base.nodes, pct=base.pct, away=base.away, waiting_mib=base.waiting_mib, shares=shares,
        wanted=wanted, covers=min(covers, wanted) if wanted else covers, missing_mib=missing_mib, demand_mib=demand_mib,
        too_large=too_large, sentence="; ".join(said),
    )  # fmt: skip


def _elsewhere(shares: Mapping[str, int], node: str) -> int:
    return max((mib for name, mib in shares.items() if name != node), default=0)


def _short(rooms: Mapping[str, Room], wanted: int, covers: int, missing_mib: int) -> str:
    if len(rooms) <= wanted:
        many = "no node takes" if not rooms else "1 node takes" if len(rooms) == 1 else f"{len(rooms)} nodes take"
        return f"{many} VMs: the loss of {wanted} leaves none for theirs"
    of = f"the loss of {covers} of {wanted} nodes is covered" if covers else "no loss of a node is covered"
    return f"{of}: {missing_mib} MiB are missing"
