"""The decisions of `policy.place` for many nodes, some hundred times as fast, with the same results.

Each calculation is made with the same operations in the same order as there; sums are over whole numbers below 2**53, so that
neither the machine nor the order matters. Rows are sorted by name: the first of equals is the one that policy.py takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from libs.common.messages import NodeId
from proto.compute import Candidate, Filter, Placement, Rejected
from proto.placement import Removed, bitset
from services.compute import policy
from services.compute.columns import CODE, ROOMY, Column, Columns
from services.compute.policy import (
    CANDIDATES_MAX,
    CHANCE,
    HEALTH_PCT_MIN,
    NAMED_MAX,
    NAMES_MAX,
    NEAREST_MAX,
    NodeFacts,
    Weights,
    Wishes,
)

_MISSING = {Filter.POOL: "pools", Filter.NETWORK: "networks", Filter.FIRMWARE: "firmware"}
_NOWHERE = float("-inf")
INPUTS = ("cpu_used", "memory_used")


class NodeIndex:
    """`put` and `drop` as facts change; `place` decides, `best` only chooses."""

    def __init__(self, facts: Iterable[NodeFacts] = (), horizons: int = 16) -> None:
        """horizons: the length of `NodeFacts.ends` and `Wishes.lasts`."""
        self._columns = Columns(horizons)
        self._columns.fill(facts)

    def put(self, *facts: NodeFacts) -> None:
        """The facts of nodes, in place of those before."""
        self._columns.fill(facts)

    def drop(self, name: str) -> None:
        """The node is no more."""
        self._columns.drop(name)

    def best(self, wish: Wishes, weights: Weights = policy.SPREAD) -> NodeId | None:
        """The first candidate of `place`."""
        codes, passed = self._filter(wish, ())
        if not passed:
            return None
        return self._columns.names[int(self._score(wish, weights, codes)[0].argmax())]

    def place(
        self, wish: Wishes, tried: Sequence[str] = (), weights: Weights = policy.SPREAD, nodes: int = 0
    ) -> Placement:
        """As policy.place."""
        codes, passed = self._filter(wish, tried)
        best = self._candidates(wish, weights, codes) if passed else ()
        count = len(self._columns.names)
        if passed == count:
            rejected: tuple[Rejected, ...] = ()
        elif count <= NAMED_MAX:
            rejected = tuple(self._rejected(wish, int(row), int(codes[row])) for row in np.flatnonzero(codes))
        else:
            rejected = self._nearest(wish, codes, passed > 0)
        nodes = nodes or self._columns.numbers
        removed = self._removed(codes, nodes) if NAMED_MAX < count > passed else ()
        return Placement(
            policy=weights.name, candidates=best, rejected=rejected, passed=passed, nodes=nodes, removed=removed
        )

    # --- filters ------------------------------------------------------------------------------------------------------

    def _filter(self, wish: Wishes, tried: Sequence[str]) -> tuple[Column, int]:
        """Of each node the code of the first filter that removes it, 0 for candidates; and how many those are."""
        c = self._columns
        codes = c.closed.copy()
        if wish.health_min != HEALTH_PCT_MIN:
            ill = c.health < wish.health_min
            codes[(codes == CODE[Filter.HEALTH]) & ~ill] = 0
            codes[(codes == 0) & ill] = CODE[Filter.HEALTH]
        for name in tried:
            if (row := c.rows.get(name)) is not None:
                codes[row] = CODE[Filter.TRIED]
        if wish.source and (row := c.rows.get(wish.source)) is not None:
            codes[row] = CODE[Filter.SOURCE]
        if wish.node:
            kept = c.rows.get(wish.node)
            code = codes[kept] if kept is not None else 0
            codes[:] = CODE[Filter.NOT_ASKED]
            if kept is not None:
                codes[kept] = code
        open = codes == 0
        for filter, removes in self._removing(wish):
            lost = open & removes
            if lost.any():
                codes[lost] = CODE[filter]
                open ^= lost
        return codes, int(np.count_nonzero(open))

    def _removing(self, wish: Wishes) -> Iterable[tuple[Filter, Column]]:
        """The filters that look at the wish, in their order, with the nodes that each would remove."""
        c = self._columns
        if wish.pools:
            yield Filter.POOL, c.missing("pools", wish.pools) > 0
        if wish.new_disks and c.rooms:
            needed, free = self._pool_fit(wish)
            yield Filter.POOL_FULL, needed > free
        if wish.networks:
            yield Filter.NETWORK, c.missing("networks", wish.networks) > 0
        if wish.firmware:
            yield Filter.FIRMWARE, c.missing("firmware", wish.firmware) > 0
        if wish.apart and ("apart", wish.apart) in c.groups:
            yield Filter.APART, self._having("apart", wish.apart)
        if wish.together and not wish.with_group and ("together", wish.together) in c.groups:
            yield Filter.TOGETHER, ~self._having("together", wish.together)
        if wish.one_cell and c.cells:
            yield Filter.NUMA, self._misfit(wish) > 0
        yield Filter.CPU_LIMIT, self._vcpus_free(wish) < wish.vcpus
        if wish.cpu_reserved_pct:
            yield Filter.CPU, c.pct_free < wish.cpu_reserved_pct
        lack = self._lack(wish)[2]
        yield Filter.MEMORY, lack > c.ha
        yield Filter.HA_RESERVE, lack > self._more(wish)

    def _pool_fit(self, wish: Wishes) -> tuple[Column, Column]:
        """As policy.pool_fit: needed and free, of each node."""
        c = self._columns
        needed, free = np.zeros(len(c.names), np.int64), np.zeros(len(c.names), np.int64)
        worst = np.full(len(c.names), -ROOMY, np.int64)
        for pool, mib, home in wish.new_disks:
            if (room := c.rooms.get(pool)) is not None:
                worse = (room != ROOMY) & (mib - room > worst)
                if home:
                    worse &= c.missing("pools", (f"{pool}@{home}",)) > 0
                needed[worse], free[worse], worst[worse] = mib, room[worse], mib - room[worse]
        return needed, free

    def _vcpus_free(self, wish: Wishes) -> Column:
        """By the node's limit, or by that of the VM's class where that is lower."""
        c = self._columns
        if not wish.vcpus_per_pcpu:
            free: Column = c.vcpus_free
        else:
            most = (c.pcpus * np.minimum(c.ratio, wish.vcpus_per_pcpu)).astype(np.int64)
            free = np.maximum(1, most) - c.vcpus
        return free

    def _lack(self, wish: Wishes) -> tuple[Column, Column, Column]:
        """By how much either limit of the ledger would be broken (negative: not), and the larger of the two."""
        c = self._columns
        guaranteed = (wish.guaranteed_mib or wish.memory_mib) - c.memory_free
        charged = wish.memory_mib * 100 // c.ratio_pct(wish.priority) - c.charged_free
        return guaranteed, charged, np.maximum(guaranteed, charged)

    def _more(self, wish: Wishes) -> Column | int:
        """MiB that are kept, and kept for it, too."""
        return self._columns.ha if wish.failover else self._columns.moves if wish.moving else 0

    def _having(self, kind: str, group: str) -> Column:
        found = np.zeros(len(self._columns.names), bool)
        found[self._columns.with_group(kind, group)] = True
        return found

    # --- score --------------------------------------------------------------------------------------------------------

    def _score(self, wish: Wishes, weights: Weights, codes: Column) -> tuple[Column, dict[str, Column]]:
        """In whole millionths, with the columns it is made of; removed nodes are below all others."""
        c = self._columns
        if c.crowded():
            weights = policy.plain(weights)
        cpu = (c.vcpus + wish.vcpus) / c.vcpus_max
        memory = (c.memory_max + self._lack(wish)[2]) / np.maximum(1, c.memory_max)
        values = {"cpu_used": cpu, "memory_used": memory}
        if weights.fit:
            cpu_left, memory_left = 1.0 - cpu, 1.0 - memory
            values["fit"] = 1.0 - np.sqrt((cpu_left * cpu_left + memory_left * memory_left) / 2)
        if weights.room:
            values["room"] = 1.0 - np.sqrt((cpu * cpu + memory * memory) / 2)
        if weights.lifetime and wish.lasts:
            lasts = np.array(wish.lasts, np.float64)
            values["lifetime"] = -(np.einsum("i,ij->j", lasts, c.ends) / max(1, sum(wish.lasts) * CHANCE))
        if weights.numa and c.cells:
            values["numa"] = -self._misfit(wish)
        if weights.health and c.ill:
            values["health"] = (c.health - 100) / 100
        if weights.contention and c.loads:
            values["contention"] = -self._contention(wish)
        score: Column = np.zeros(len(c.names))
        for term, column in values.items():
            if weight := getattr(weights, term, 0.0):
                score += weight * column
        score *= 1e6
        np.rint(score, out=score)
        score[codes > 0] = _NOWHERE
        return score, values

    def _misfit(self, wish: Wishes) -> Column:
        c = self._columns
        held = np.minimum(c.cell_vcpus / max(1, wish.vcpus), c.cell_memory / max(1, wish.memory_mib)).max(axis=0)
        return np.where(c.cells_known > 0, 1.0 - np.minimum(1.0, held), 0.0)

    def _contention(self, wish: Wishes) -> Column:
        c = self._columns
        there = np.maximum(0.01, c.pcpus * ((100 - c.steal_pct) / 100))
        expected = (c.load + policy.BUSY_SHARE * wish.vcpus) / there
        found = np.minimum(1.0, np.maximum(0.0, expected - 1.0) + c.ready_pct / 100)
        return np.where((c.load != 0) | (c.ready_pct != 0), found, 0.0)

    def _candidates(self, wish: Wishes, weights: Weights, codes: Column) -> tuple[Candidate, ...]:
        score, values = self._score(wish, weights, codes)
        found: list[Candidate] = []
        while len(found) < CANDIDATES_MAX:
            row = int(score.argmax())
            top = float(score[row])
            if top == _NOWHERE:
                break
            terms = {t: round(float(v[row]), 6) for t, v in values.items()}
            terms = {t: v for t, v in terms.items() if v or t in INPUTS}
            found.append(Candidate(node=self._columns.names[row], score=top / 1e6, terms=terms))
            score[row] = _NOWHERE
        return tuple(found)

    # --- what is said of those removed -----------------------------------------------------------------------------------

    def _needs(self, wish: Wishes, filter: Filter, rows: Column) -> tuple[Column, Column]:
        """What a filter with numbers needed of these nodes, and what each has of it."""
        c = self._columns
        match filter:
            case Filter.POOL_FULL:
                needed, free = self._pool_fit(wish)
                return needed[rows], np.maximum(0, free[rows])
            case Filter.CPU_LIMIT:
                return np.full(len(rows), wish.vcpus), np.maximum(0, self._vcpus_free(wish)[rows])
            case Filter.CPU:
                return np.full(len(rows), wish.cpu_reserved_pct), np.maximum(0, c.pct_free[rows])
            case _:
                guaranteed, charged, _ = self._lack(wish)
                free = np.where(charged > guaranteed, c.charged_free, c.memory_free)
                return (np.maximum(guaranteed, charged) + free)[rows], np.maximum(0, (free + self._more(wish))[rows])

    def _rejected(self, wish: Wishes, row: int, code: int) -> Rejected:
        filter, name = _FILTERS[code - 1], self._columns.names[row]
        facts = self._columns.facts[name]
        if filter in policy.WITH_NUMBERS:
            lacks, has = self._needs(wish, filter, np.array([row]))
            return Rejected(node=name, filter=filter, needed=int(lacks[0]), available=int(has[0]))
        if kind := _MISSING.get(filter):
            needed = int(self._columns.missing(kind, getattr(wish, kind))[row])
            return Rejected(node=name, filter=filter, needed=needed, reason=policy.reason_of(filter, wish, facts))
        if filter is Filter.HEALTH:
            return Rejected(
                node=name, filter=filter, needed=wish.health_min, available=facts.health, reason=facts.health_reason
            )
        return Rejected(node=name, filter=filter)

    def _nearest(self, wish: Wishes, codes: Column, chosen: bool) -> tuple[Rejected, ...]:
        """Those that are named in a large cluster, as policy.nearest."""
        found: list[Rejected] = []
        for code in np.flatnonzero(np.bincount(codes)):
            if not code:
                continue
            filter = _FILTERS[code - 1]
            always = filter in (Filter.TRIED, Filter.SOURCE)
            if not always and chosen and filter not in policy.WITH_NUMBERS:
                continue
            rows = np.flatnonzero(codes == code)
            if filter in policy.WITH_NUMBERS:
                needed, available = self._needs(wish, filter, rows)
                rows = rows[_least(needed - available, NEAREST_MAX if chosen else NAMES_MAX)]
            elif not always:
                rows = rows[:NAMES_MAX]
            found += [self._rejected(wish, int(row), int(code)) for row in rows]
        return tuple(found)

    def _removed(self, codes: Column, nodes: int) -> tuple[Removed, ...]:
        codes = self._columns.by_number(codes)
        codes = np.concatenate([codes, np.zeros(max(0, nodes - len(codes)), np.uint8)])
        counts = np.bincount(codes)
        return tuple(
            Removed(filter=_FILTERS[code - 1], numbers=bitset(np.packbits(codes == code).tobytes()))
            for code in np.flatnonzero(counts)
            if code
        )


_FILTERS = tuple(Filter)


def _least(lacking: Column, count: int) -> list[int]:
    """Where the least is lacking, the first of equals first."""
    if len(lacking) <= 4 * count:
        return [int(at) for at in np.argsort(lacking, kind="stable")[:count]]
    lacking, found = lacking.copy(), []
    for _ in range(count):
        found.append(int(lacking.argmin()))
        lacking[found[-1]] = np.iinfo(np.int64).max
    return found
