"""How much is to be kept free, and where. Pure.

Any N nodes may be lost, and their VMs, which come one by one and in any order, have to fit into what is kept on the others. A node
with a share s turns away a VM of at most m MiB only when more than s - m of it are in use, and holds at least s // m of them. So
the VMs of the lost ones fit, however they are placed, if what they take is at most the sum of all s - m + 1 on the others, or if
they are no more than the sum of all s // m. Both are sums of u(n) over the others, to be at least the sum of d(n) over the lost:

    sum of all u  >=  sum over the lost of (u + d)       and the worst are those with the largest u + d

All nodes keep the same level, as far as they have it free, and the level is the lowest that holds: the left side rises with it no
slower than the right. Beside that there is room for VMs that are owed already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proto.lease import HaSettings, Reserve
from proto.reserve import Plan

STEP_MIB = 32
"""levels are whole multiples, so that a small VM more or less seldom moves them"""
EXACT_MAX = 32
"""nodes up to which each is looked at with its own largest VM; beyond, and for several losses, with the largest of all"""
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Room:
    """capacity_mib: of its ledger; taken_mib: what is promised of it; needs: what each of its VMs takes that would be started
    elsewhere; largest: the name of the one that takes most."""

    capacity_mib: int
    taken_mib: int
    needs: tuple[int, ...] = ()
    largest: str = ""
    free_mib: int = field(init=False)
    demand_mib: int = field(init=False)
    largest_mib: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "free_mib", max(0, self.capacity_mib - self.taken_mib))
        object.__setattr__(self, "demand_mib", sum(self.needs))
        object.__setattr__(self, "largest_mib", max(self.needs, default=0))


type Rooms = Mapping[str, Room]
type Shares = Mapping[str, int]


def plan(settings: HaSettings, rooms: Rooms, away: Iterable[str] = (), waiting: Sequence[int] = ()) -> Plan:
    """rooms: of nodes that take VMs. away: nodes that do not, for they are lost or being emptied; waiting: what their VMs take."""
    gone = tuple(sorted(away))
    base = Plan(
        kind=settings.reserve, nodes=settings.reserve_nodes, pct=settings.reserve_pct, away=gone, waiting_mib=sum(waiting)
    )
    match settings.reserve:
        case Reserve.NONE:
            return _told(base, rooms, dict.fromkeys(rooms, 0), 0, ())
        case Reserve.PERCENT:
            shares = {n: min(r.free_mib, r.capacity_mib * settings.reserve_pct // 100) for n, r in rooms.items()}
            short_mib = sum(r.capacity_mib * settings.reserve_pct // 100 - shares[n] for n, r in rooms.items())
            return _told(base, rooms, shares, 0, (), short_mib)
        case Reserve.NODES:
            wanted = max(0, settings.reserve_nodes - len(gone))
            return _told(base, rooms, _level(rooms, wanted, waiting), wanted, waiting)


def _level(rooms: Rooms, wanted: int, waiting: Sequence[int]) -> dict[str, int]:
    """The lowest level at which it holds; all that is free where it never does. Nothing is kept that no loss could use: by a node
    alone, for others."""
    most = max((room.free_mib for room in rooms.values()), default=0)
    if len(rooms) <= wanted:
        return _at(rooms, most if waiting else 0)
    low, high = 0, -(-most // STEP_MIB)
    while low < high:
        middle = (low + high) // 2
        if holds(rooms, _at(rooms, middle * STEP_MIB), wanted, waiting):
            high = middle
        else:
            low = middle + 1
    return _at(rooms, low * STEP_MIB)


def _at(rooms: Rooms, level_mib: int) -> dict[str, int]:
    return {name: min(room.free_mib, level_mib) for name, room in rooms.items()}


def holds(rooms: Rooms, shares: Shares, lost: int, waiting: Sequence[int] = ()) -> bool:
    """The VMs of any so many nodes, and those that wait, fit into the shares of the others, whatever their order."""
    if lost == 1 and len(rooms) <= EXACT_MAX:
        return all(_holds({n: r}, rooms, shares, 1, waiting) for n, r in rooms.items())
    return _holds(rooms, rooms, shares, lost, waiting)


def _holds(may_go: Rooms, rooms: Rooms, shares: Shares, lost: int, waiting: Sequence[int]) -> bool:
    going = [room.largest_mib for room in may_go.values()] if lost else []
    largest = max((*going, *waiting), default=0)
    if not largest:
        return True
    by_mib = {name: max(0, share - largest + 1) for name, share in shares.items()}
    if _fits(by_mib, {n: r.demand_mib for n, r in may_go.items()}, lost, sum(waiting)):
        return True
    by_count = {name: share // largest for name, share in shares.items()}
    return _fits(by_count, {n: len(r.needs) for n, r in may_go.items()}, lost, len(waiting))


def _fits(there: Mapping[str, int], asked: Mapping[str, int], lost: int, waiting: int) -> bool:
    worst = sorted((there[name] + mib for name, mib in asked.items()), reverse=True)[:lost]
    return sum(there.values()) >= sum(worst) + waiting


def covered(rooms: Rooms, shares: Shares, waiting: Sequence[int] = ()) -> int:
    """How many nodes may be lost, whichever they are."""
    lost = 0
    while lost + 1 < len(rooms) and holds(rooms, shares, lost + 1, waiting):
        lost += 1
    return lost


def missing(rooms: Rooms, shares: Shares, lost: int, waiting: Sequence[int]) -> int:
    """MiB that all nodes together would have to have free beside what they have; 0: none."""
    if holds(rooms, shares, lost, waiting):
        return 0
    low, high = 1, 1 + 2 * (sum(room.demand_mib for room in rooms.values()) + sum(waiting))
    while low < high:
        middle = (low + high) // 2
        if holds(rooms, {name: share + middle for name, share in shares.items()}, lost, waiting):
            high = middle
        else:
            low = middle + 1
    return low * len(rooms)


def _told(
    base: Plan, rooms: Rooms, shares: dict[str, int], wanted: int, waiting: Sequence[int], short_mib: int = 0
) -> Plan:
    covers = covered(rooms, shares, waiting)
    possible = len(rooms) > wanted
    missing_mib = short_mib or (missing(rooms, shares, wanted, waiting) if possible and base.kind is Reserve.NODES else 0)
    demand_mib = sum(sorted((r.demand_mib for r in rooms.values()), reverse=True)[: max(1, wanted)])
    large = _too_large(rooms, shares) if wanted else []
    said = []
    if covers < wanted:
        said.append(_short(rooms, wanted, covers, missing_mib))
    elif missing_mib:
        said.append(f"{missing_mib} MiB that were to be kept are not free")
    if large:
        more = f" and {len(large) - NAMED_MAX} more" if len(large) > NAMED_MAX else ""
        said.append(f"the largest VM of {', '.join(large[:NAMED_MAX])}{more} would not fit into what any other node keeps")
    return Plan(
        kind=base.kind, nodes=base.nodes, pct=base.pct, away=base.away, waiting_mib=base.waiting_mib, shares=shares,
        wanted=wanted, covers=min(covers, wanted) if wanted else covers, missing_mib=missing_mib, demand_mib=demand_mib,
        too_large=tuple(rooms[name].largest for name in large), sentence="; ".join(said),
    )  # fmt: skip


def _too_large(rooms: Rooms, shares: Shares) -> list[str]:
    """Nodes whose largest VM fits into no other's share."""
    first, second, *_ = [*sorted(((mib, name) for name, mib in shares.items()), reverse=True), (0, ""), (0, "")]
    return [n for n, r in sorted(rooms.items()) if r.largest_mib > (second if n == first[1] else first)[0]]


def _short(rooms: Rooms, wanted: int, covers: int, missing_mib: int) -> str:
    if len(rooms) <= wanted:
        many = "no node takes" if not rooms else "1 node takes" if len(rooms) == 1 else f"{len(rooms)} nodes take"
        return f"{many} VMs: the loss of {wanted} leaves none for theirs"
    of = f"the loss of {covers} of {wanted} nodes is covered" if covers else "no loss of a node is covered"
    return f"{of}: {missing_mib} MiB more would have to be free"
