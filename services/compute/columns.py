"""Facts of many nodes as columns: one row a node, sorted by name, written anew when the node's facts change. Beside them what is
counted over all nodes, so that no decision has to look at each of them in Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.common.messages import NodeId
from proto.compute import Filter
from proto.machine import Priority
from services.compute import policy
from services.compute.networks import lacks
from services.compute.policy import CELLS_MAX, CHANCE, CROWDED, HEALTH_PCT_MIN, PRIORITIES, NodeFacts

Column = NDArray[Any]

CODE = {filter: code for code, filter in enumerate(Filter, 1)}
"""A filter as a small number; 0: none removed the node."""

ROOMY = 2**52
"""MiB of a pool of which nothing is known"""

REACH_MAX = 256
"""Different sets of pools or networks of which it is kept what each node lacks."""

_WHOLE = (
    "vcpus_max",
    "vcpus",
    "memory_max",
    "memory",
    "charged",
    "ha",
    "moves",
    "pct_free",
    "cells_known",
    "number",
)
_REAL = ("pcpus", "ratio", "health", "load", "ready_pct", "steal_pct")


def closed(f: NodeFacts) -> int:
    """The code of the filter that keeps every new VM away; 0: open."""
    if not f.reported:
        return CODE[Filter.NEVER_REPORTED]
    if f.lost:
        return CODE[Filter.LOST]
    if not f.online:
        return CODE[Filter.OFFLINE]
    if f.cordoned:
        return CODE[Filter.CORDONED]
    return CODE[Filter.HEALTH] if f.health < HEALTH_PCT_MIN else 0


def _reach_of(f: NodeFacts) -> tuple[object, ...]:
    return f.pools, f.bridges, f.tap_filter, f.firmware, f.number


class Columns:
    """The columns by name: those of _WHOLE (whole numbers) and _REAL, `closed` (codes), `ends` (horizon by node), and `cell_vcpus`,
    `cell_memory` (cell by node; 0 where a node has fewer)."""

    def __init__(self, horizons: int) -> None:
        self.names: list[NodeId] = []
        self.rows: dict[str, int] = {}
        self.facts: dict[str, NodeFacts] = {}
        self.groups: dict[tuple[str, str], set[str]] = {}
        self.rooms: dict[str, Column] = {}
        """by pool; ROOMY where a node has not told"""
        self.numbers = 0
        self.loads = self.cells = self.ill = 0
        self.sums = [0, 0, 0, 0, 0]
        self.whole = np.zeros((len(_WHOLE), 0), np.int64)
        self.real = np.zeros((len(_REAL), 0))
        self.ratios = np.zeros((len(PRIORITIES), 0), np.int64)
        self.ends = np.zeros((horizons, 0))
        self.left = np.zeros((2, CELLS_MAX, 0), np.int64)
        self.closed = np.zeros(0, np.uint8)
        self._reach: dict[tuple[str, tuple[Any, ...]], Column] = {}
        self._ratio: dict[Priority, int] = {}
        self._order: Column | None = None
        self._name()

    def fill(self, facts: Iterable[NodeFacts]) -> None:
        """Facts of nodes, in place of those before; rows of new nodes are made in one go."""
        all = list(facts)
        fresh = {f.node for f in all if f.node not in self.rows}
        if fresh:
            self._arrange(sorted([*self.names, *fresh]))
        for one in all:
            self._put(one)

    def drop(self, name: str) -> None:
        """The node is no more."""
        before = self.facts.pop(name, None)
        if before is not None:
            self._account(before, -1)
            self._arrange([n for n in self.names if n != name])

    def crowded(self) -> bool:
        """As policy.crowded."""
        vcpus, vcpus_max, reserved, charged, memory_max = self.sums
        return vcpus > CROWDED * vcpus_max or max(reserved, charged) > CROWDED * memory_max

    def missing(self, kind: str, wanted: tuple[Any, ...]) -> Column:
        """How many of the wanted pools, networks (Grounds) or kinds of firmware each node lacks."""
        found = self._reach.get((kind, wanted))
        if found is None:
            if len(self._reach) >= REACH_MAX:
                self._reach.clear()
            facts = (self.facts[n] for n in self.names)
            if kind == "networks":
                counts = [len(lacks(wanted, f.bridges, f.tap_filter)) for f in facts]
            else:
                counts = [len(set(wanted) - set(getattr(f, kind))) for f in facts]
            found = self._reach[kind, wanted] = np.array(counts, np.int64)
        return found

    def ratio_pct(self, priority: Priority) -> int | Column:
        """Of each node for that class; one number where all have the same."""
        if priority not in self._ratio:
            row = self.ratios[PRIORITIES.index(priority)]
            self._ratio[priority] = int(row[0]) if len(row) and (row == row[0]).all() else 0
        return self._ratio[priority] or self.ratios[PRIORITIES.index(priority)]

    def _room(self, row: int, f: NodeFacts, before: NodeFacts | None) -> None:
        if before is not None and before.pool_rooms == f.pool_rooms:
            return
        rooms = dict(f.pool_rooms)
        for pool in rooms.keys() - self.rooms.keys():
            self.rooms[pool] = np.full(len(self.names), ROOMY, np.int64)
        for pool, column in self.rooms.items():
            column[row] = rooms.get(pool, ROOMY)

    def with_group(self, kind: str, group: str) -> Column:
        """Rows of the nodes on which VMs of that group run."""
        return np.array([self.rows[n] for n in self.groups.get((kind, group), ())], np.int64)

    def by_number(self, codes: Column) -> Column:
        """Codes in the order of the nodes' numbers; 0 for numbers of nodes that are gone."""
        if self._order is None:
            self._order = np.full(self.numbers, len(self.names), np.int64)
            self._order[self.number] = np.arange(len(self.names))
        return np.append(codes, np.uint8(0))[self._order]

    def _put(self, f: NodeFacts) -> None:
        row, before = self.rows[f.node], self.facts.get(f.node)
        if before is not None:
            self._account(before, -1)
        if before is None or _reach_of(before) != _reach_of(f):
            self._reach.clear()
            self._order = None
            self.numbers = max(self.numbers, f.number + 1)
        self.facts[f.node] = f
        self._account(f, 1)
        vcpus_max, pct_free = policy.vcpus_max(f), policy.reservable_pct(f) - f.cpu_reserved_pct
        self.whole[:, row] = (
            vcpus_max, f.vcpus_promised, f.memory_capacity_mib, f.memory_reserved_mib, f.memory_charged_mib, f.memory_ha_mib,
            f.memory_moves_mib, pct_free, len(f.cells), f.number,
        )  # fmt: skip
        if before is None or before.ratios_pct != f.ratios_pct:
            self.ratios[:, row] = f.ratios_pct
            self._ratio.clear()
        self._room(row, f, before)
        self.real[:, row] = f.pcpus, f.vcpus_per_pcpu, f.health, f.load, f.ready_pct, f.steal_pct
        if f.cells or (before is not None and before.cells):
            self.left[:, :, row] = 0
            self.left[:, : len(f.cells), row] = np.array(f.cells, np.int64).reshape(-1, 2).T
        self.ends[:, row] = f.ends or CHANCE
        self.closed[row] = closed(f)
        self.vcpus_free[row] = vcpus_max - f.vcpus_promised
        self.memory_free[row] = f.memory_capacity_mib - f.memory_reserved_mib
        self.charged_free[row] = f.memory_capacity_mib - f.memory_charged_mib

    def _account(self, f: NodeFacts, sign: int) -> None:
        """Counts over all nodes: use of the open ones, those that a term or filter knows anything of, groups."""
        if not closed(f):
            sums = self.sums
            sums[0] += sign * f.vcpus_promised
            sums[1] += sign * policy.vcpus_max(f)
            sums[2] += sign * f.memory_reserved_mib
            sums[3] += sign * f.memory_charged_mib
            sums[4] += sign * f.memory_capacity_mib
        self.ill += sign * (f.health != 100)
        self.loads += sign * bool(f.load or f.ready_pct)
        self.cells += sign * bool(f.cells)
        for kind, groups in (("together", f.together), ("apart", f.apart)):
            for group in groups:
                there = self.groups.setdefault((kind, group), set())
                (there.add if sign > 0 else there.discard)(f.node)
                if not there:
                    del self.groups[kind, group]

    def _arrange(self, names: list[NodeId]) -> None:
        """Rows for these names; those that were there keep what they have."""
        kept = np.array([self.rows.get(n, -1) for n in names], np.int64)
        there, here = kept >= 0, kept[kept >= 0]
        for attribute in ("whole", "real", "ratios", "ends", "left", "closed"):
            before = getattr(self, attribute)
            after = np.zeros((*before.shape[:-1], len(names)), before.dtype)
            after[..., there] = before[..., here]
            setattr(self, attribute, after)
        for pool, before in self.rooms.items():
            self.rooms[pool] = np.full(len(names), ROOMY, np.int64)
            self.rooms[pool][there] = before[here]
        self.names, self.rows = names, {n: row for row, n in enumerate(names)}
        self._reach.clear()
        self._ratio.clear()
        self._order = None
        self._name()

    def _name(self) -> None:
        """The rows of the two matrices by name, and the differences that every decision needs."""
        self.vcpus_max, self.vcpus, self.memory_max, self.memory, self.charged = self.whole[:5]
        self.ha, self.moves, self.pct_free, self.cells_known, self.number = self.whole[5:]
        self.pcpus, self.ratio, self.health, self.load, self.ready_pct, self.steal_pct = self.real
        self.cell_vcpus, self.cell_memory = self.left
        self.vcpus_free = self.vcpus_max - self.vcpus
        self.memory_free = self.memory_max - self.memory
        self.charged_free = self.memory_max - self.charged
