"""When nodes will empty: the chance that all VMs of a node have ended by each of some horizons, from their classes and ages.

Survival per class is a life table: of the VMs that reached an age bin, how many ended in it; VMs that still run count for the
bins they have left behind. Where a class has seen little, it is drawn to the one above it (owner → burst and size; hour → burst
and size → burst → all). A VM's age enters by its bin, so that one that has lasted a day is expected to last longer.

Per node there is the sum over its VMs of -log2(chance that it ended by then), in whole 1024ths: taking a VM away gives back
exactly what adding it put there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.compute.lifetime_table import (
    AGES_S,
    BLOCKS,
    BURSTS,
    KINDS,
    OWN_MAX,
    SHARED,
    SIZES,
    Life,
    LifetimeTable,
    age_bin,
)
from services.compute.policy import CHANCE

Column = NDArray[Any]

HORIZONS = 16
HORIZONS_S = np.rint(300 * (30 * 86_400 / 300) ** (np.arange(HORIZONS) / (HORIZONS - 1)))
"""Five minutes to a month. Most VMs end within hours, so the near ones lie close together."""

ENDS_MIN = 100
"""Ends seen before any lifetime is expected at all: until then only the fit counts."""
PRIOR = 5.0
"""A class counts as if it had seen so many more VMs that behaved as those of the class above."""
LEARN_US = 3_600_000_000
LEARN_GROWTH = 1.1
"""The table is read anew after this time, or once it has seen so many times the ends."""
AGE_US = 300_000_000
"""Ages are looked at as often as this."""

HAZARD = 0.2
"""Part of the VMs that end in an age bin, where nothing was seen."""

_ROW, _KIND, _BIN, _BEGAN, _SHARED, _OWN = range(6)
_BINS = len(AGES_S)
_EDGES_US = np.array(AGES_S, np.int64) * 1_000_000
_UNIT = 1024
_TOP = 16 * _UNIT
_CHANCES = np.rint(CHANCE * 2.0 ** (-np.arange(_TOP + 1) / _UNIT)).astype(np.int64)
_LASTING = 4096
_STEPS = np.diff(HORIZONS_S, prepend=0.0)


def _after() -> tuple[Column, Column]:
    """For an age bin (row) and a horizon (column): the bin in which the VM is then, and how far into it."""
    edges = np.array([*AGES_S, AGES_S[-1] * 2], np.float64)
    ages = np.append(0.0, np.sqrt(edges[1:-1] * edges[2:]))
    then = np.minimum(ages[:, None] + np.append(0.0, HORIZONS_S), edges[-1])
    bins = np.minimum(np.searchsorted(edges, then, "right") - 1, _BINS - 1)
    return bins, (then - edges[bins]) / (edges[bins + 1] - edges[bins])


_THEN, _INTO = _after()


class Outlook:
    """VMs and nodes by name. `learn` and `age` are called with the time before facts are wanted; both say which nodes changed."""

    def __init__(self) -> None:
        self._row: dict[str, int] = {}
        self._slot: dict[str, int] = {}
        self._free: list[int] = []
        self._sums = np.zeros((0, HORIZONS), np.int64)
        self._vms = np.zeros((6, 0), np.int64)
        self._survival = np.zeros((KINDS, _BINS + 1))
        self._cost = np.zeros((KINDS, _BINS, HORIZONS), np.int64)
        self._lasts: dict[int, tuple[int, ...]] = {}
        self._learnt_us = self._aged_us = self._ends = 0

    def lasts(self, kind: int) -> tuple[int, ...]:
        """`Wishes.lasts` of a new VM; empty while too little is known."""
        if self._ends < ENDS_MIN:
            return ()
        if kind not in self._lasts:
            self._read(np.array([kind]))
        return self._lasts[kind]

    def ends(self, node: str) -> tuple[int, ...]:
        """`NodeFacts.ends`; empty for a node on which no VM was ever seen."""
        row = self._row.get(node)
        if row is None or self._ends < ENDS_MIN:
            return ()
        return tuple(_CHANCES[np.minimum(self._sums[row], _TOP)].tolist())

    def add(self, vm: str, node: str, life: Life, now_us: int) -> None:
        """The VM has this node, whichever it had."""
        self.drop(vm)
        if self._ends and life.kind not in self._lasts:
            self._read(np.array([life.kind]))
        row = self._row.setdefault(node, len(self._row))
        if row >= len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros((max(16, row), HORIZONS), np.int64)])
        if not self._free:
            count = self._vms.shape[1]
            self._vms = np.concatenate([self._vms, np.full((6, max(64, count)), -1)], axis=1)
            self._free = list(range(count, self._vms.shape[1]))[::-1]
        slot = self._slot[vm] = self._free.pop()
        bin = age_bin(now_us - life.since_us)
        self._vms[:, slot] = row, life.kind, bin, life.since_us, life.shared, life.own
        self._sums[row] += self._cost[life.kind, bin]

    def drop(self, vm: str) -> None:
        """The VM has no node any more."""
        slot = self._slot.pop(vm, None)
        if slot is not None:
            row, kind, bin = self._vms[:3, slot].tolist()
            self._sums[row] -= self._cost[kind, bin]
            self._vms[_ROW, slot] = -1
            self._free.append(slot)

    def node_of(self, vm: str) -> str:
        """The node on which the VM counts. Raises KeyError."""
        row = int(self._vms[_ROW, self._slot[vm]])
        return next(node for node, at in self._row.items() if at == row)

    def age(self, now_us: int) -> Iterable[str]:
        """Moves VMs that have grown older to their age bin. The nodes on which some have."""
        if now_us - self._aged_us < AGE_US:
            return ()
        self._aged_us = now_us
        rows, kinds, bins, began = self._vms[:4]
        now = np.searchsorted(_EDGES_US, np.maximum(0, now_us - began), "right") - 1
        moved = np.flatnonzero((now != bins) & (rows >= 0))
        np.add.at(self._sums, rows[moved], self._cost[kinds[moved], now[moved]] - self._cost[kinds[moved], bins[moved]])
        bins[moved] = now[moved]
        touched = set(rows[moved].tolist())
        return [node for node, row in self._row.items() if row in touched]

    def learn(self, table: LifetimeTable, now_us: int) -> Iterable[str]:
        """Reads the table, when it is time to. All nodes change by it."""
        due = now_us - self._learnt_us >= LEARN_US or table.ends > self._ends * LEARN_GROWTH
        if not due or table.ends < ENDS_MIN or table.ends == self._ends:
            return ()
        self._learnt_us, self._ends = now_us, table.ends
        alive = self._vms[:, self._vms[_ROW] >= 0]
        self._survival = survival(table, alive)
        self._lasts.clear()
        self._read(np.unique(alive[_KIND]))
        self._sums[:] = 0
        np.add.at(self._sums, alive[_ROW], self._cost[alive[_KIND], alive[_BIN]])
        return list(self._row)

    def _read(self, kinds: Column) -> None:
        """Costs and chances of these classes, from their survival."""
        reached = self._survival[kinds]
        later = reached[:, _THEN] * (1 - _INTO) + reached[:, _THEN + 1] * _INTO
        chance = later[:, :, 1:] / np.maximum(later[:, :, :1], 1e-12)
        gone = np.maximum(1.0 - chance, 2.0**-16)
        self._cost[kinds] = np.rint(-np.log2(gone) * _UNIT).astype(np.int64)
        lasts = np.rint(np.rint(chance[:, 0] * _LASTING) * _STEPS).astype(np.int64)
        self._lasts.update(zip(kinds.tolist(), map(tuple, lasts.tolist()), strict=True))


def survival(table: LifetimeTable, alive: Column) -> Column:
    """The chance to reach each age bin (and to leave the last), per class. alive: columns of VMs that run."""
    ended, ran = np.zeros((KINDS, _BINS)), np.zeros((KINDS, _BINS + 1))
    for kind, ends in table.shared.items():
        ended[kind] = ends
    above = np.zeros(OWN_MAX, np.int64)
    for own in table.own.values():
        ended[own.number] = own.ends
        above[own.number - SHARED] = own.shared // BLOCKS
    np.add.at(ran, (alive[_SHARED], alive[_BIN]), 1.0)
    owned = alive[:, alive[_OWN] >= 0]
    np.add.at(ran, (owned[_OWN], owned[_BIN]), 1.0)
    # those that still run were at risk in all bins before the one they are in
    risk = np.cumsum((ended + ran[:, 1:])[:, ::-1], axis=1)[:, ::-1]
    hazard = np.concatenate(_drawn(ended, risk, above))
    return np.concatenate([np.ones((KINDS, 1)), np.cumprod(1.0 - hazard, axis=1)], axis=1)


def _drawn(ended: Column, risk: Column, above: Column) -> tuple[Column, Column]:
    """Hazards of classes without an owner, and of owners', each drawn to the class above it."""
    shape = (BURSTS, SIZES, BLOCKS, _BINS)
    ends, risks = ended[:SHARED].reshape(shape), risk[:SHARED].reshape(shape)
    drawn: Column = np.full(_BINS, HAZARD)
    for axes in ((0, 1, 2), (1, 2), (2,), ()):
        before = drawn if drawn.ndim == 1 else drawn[..., None, :]
        drawn = (ends.sum(axis=axes) + PRIOR * before) / (risks.sum(axis=axes) + PRIOR)
        if axes == (2,):
            sized = drawn.reshape(BURSTS * SIZES, _BINS)
    own = (ended[SHARED:] + PRIOR * sized[above]) / (risk[SHARED:] + PRIOR)
    return drawn.reshape(SHARED, _BINS), own
