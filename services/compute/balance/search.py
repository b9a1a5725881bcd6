"""Looks for an end state that is worth its moves: score plus the cost of every VM that is not where it was, as low as it gets.

First greedily, the best single move at a time, as hbal does. Then what greed cannot see: VMs already on the list get better targets
or stay at home after all (neither costs a further move), or change places with another VM. The two alternate until neither
finds anything, or the budget of looks is spent; what was found until then counts. Same facts, same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proto.machine import Priority
from services.compute.balance.board import Board

LOOKS_MAX = 100_000
"""End states looked at in one plan, some 2 µs each: it is made between two commands of a service. What was found until then counts;
the next round goes on from there."""

CLASS_COST = {
    Priority.CRITICAL: 4.0,
    Priority.IMPORTANT: 2.0,
    Priority.NORMAL: 1.0,
    Priority.BEST_EFFORT: 0.5,
}
"""A move disturbs a guest for a moment: by its class, how many `gain_min` that has to be worth."""

BEGINNINGS = (1.0, 2.0, 4.0, 8.0)
"""how much dearer moves are than they are, while the first of them are looked for"""

EPSILON = 1e-9
"""Gains below it are rounding, not gains."""


def costs(board: Board) -> list[float]:
    """By VM, what its move has to gain."""
    one = board.rules.gain_min / max(1, len(board.nodes))
    return [CLASS_COST[vm.priority] * one * max(1, len(vm.parts)) for vm in board.vms]


type Scorer = Callable[[int, tuple[float, float, float]], float]


class Search:
    """Moves VMs on the board. resting: VMs that are not to be moved now."""

    def __init__(self, board: Board, resting: frozenset[str], looks_max: int = LOOKS_MAX) -> None:
        self.board = board
        self.left = looks_max
        self.cost = costs(board)
        self.movable = [i for i, vm in enumerate(board.vms) if not vm.fixed and vm.vm not in resting]

    def run(self, wide: bool = True) -> None:
        """From several beginnings, the best end: greed that spares moves at first finds the heavy ones, and builds on them.
        wide: also two VMs that have not moved may change places."""
        real, start = self.cost, list(self.board.at)
        best: tuple[float, list[int]] | None = None
        for factor in BEGINNINGS:
            if best is not None and self.left <= 0:
                break
            self._go_to(start)
            self.cost = [factor * cost for cost in real]
            self._greedy()
            self.cost = real
            self._improve(wide)
            found = self.worth()
            if best is None or found < best[0] - EPSILON:
                best = (found, list(self.board.at))
        if best is not None:
            self._go_to(best[1])

    def walk(self) -> None:
        """By single moves only, each of which fits as things are when it is made: there is a way to where it ends."""
        self._greedy()

    def worth(self) -> float:
        """What is to be made low: the score and the cost of all moves."""
        return self.board.score() + sum(self.cost[i] for i in self.moved())

    def _go_to(self, at: list[int]) -> None:
        for i, n in enumerate(at):
            if self.board.at[i] != n:
                self.board.move(i, n)

    def run_narrow(self) -> None:
        self.run(wide=False)

    def _improve(self, wide: bool) -> None:
        """Until nothing helps. Each turn lowers the worth by more than EPSILON, so there is an end."""
        while self.left > 0:
            self._greedy()
            if not self._polish(wide):
                return

    def moved(self) -> list[int]:
        board = self.board
        return [i for i in self.movable if board.at[i] != board.home[i]]

    # --- one move at a time ---------------------------------------------------------------------------------------

    def _greedy(self) -> None:
        found = self._best_of(self.movable)
        while found and self.left > 0:
            vm = max(found, key=lambda i: (found[i][0], -i))
            gain, b = found[vm]
            if gain <= EPSILON:
                return
            a = self.board.at[vm]
            self.board.move(vm, b)
            self._renew(found, a, b)

    def _best_of(self, vms: Iterable[int]) -> dict[int, tuple[float, int]]:
        """By VM: what its best move gains, its cost taken off, and where it goes."""
        found: dict[int, tuple[float, int]] = {}
        for a, guests in self._by_node(vms):
            score, before = self.board.transfers(a), self.board.score()
            for i in guests:
                best = self._best(i, self.board.reach[i], score, before)
                if best is not None:
                    found[i] = best
        return found

    def _best(self, i: int, targets: Iterable[int], score: Scorer, before: float) -> tuple[float, int] | None:
        board = self.board
        a, home, cost, amounts = board.at[i], board.home[i], self.cost[i], board.amounts(i)
        base = before + (cost if a != home else 0.0)
        best: tuple[float, int] | None = None
        for b in targets:
            if b == a or not board.fits(i, b):
                continue
            self.left -= 1
            gain = base - score(b, amounts) - (cost if b != home else 0.0)
            if best is None or gain > best[0] + EPSILON or (gain > best[0] - EPSILON and b < best[1]):
                best = (gain, b)
        return best

    def _renew(self, found: dict[int, tuple[float, int]], a: int, b: int) -> None:
        """After a move from a to b only these two nodes have changed, and the scale of all gains: VMs on them are looked at anew,
        the others at their best target until now and at these two."""
        board = self.board
        before = board.score()
        for n, guests in self._by_node(self.movable):
            score = board.transfers(n)
            for i in guests:
                known = found.get(i)
                if n in (a, b) or known is None or known[1] in (a, b):
                    targets: Iterable[int] = board.reach[i]
                else:
                    targets = {known[1], a, b} & board.reach[i]
                best = self._best(i, targets, score, before)
                if best is None:
                    found.pop(i, None)
                else:
                    found[i] = best

    def _by_node(self, vms: Iterable[int]) -> list[tuple[int, list[int]]]:
        rows: dict[int, list[int]] = {}
        for i in vms:
            rows.setdefault(self.board.at[i], []).append(i)
        return sorted(rows.items())

    # --- better lists of the same length --------------------------------------------------------------------------

    def _polish(self, wide: bool) -> bool:
        """Did anything help? VMs that have moved already come first: only where they find nothing do others change places."""
        moved = self.moved()
        for vms in (moved, sorted(set(self.movable) - set(moved)) if wide else []):
            helped = [i for i in vms if self.left > 0 and (self._relocate(i) or self._swap(i))]
            if helped:
                return True
        return False

    def _relocate(self, i: int) -> bool:
        board = self.board
        best = self._best(i, board.reach[i], board.transfers(board.at[i]), board.score())
        if best is None or best[0] <= EPSILON:
            return False
        board.move(i, best[1])
        return True

    def _swap(self, i: int) -> bool:
        """The VM changes places with the one by which the sum falls most."""
        board = self.board
        a, mine = board.at[i], board.amounts(i)
        score, before = board.transfers(a), board.score()
        best: tuple[float, int] | None = None
        for j in self.movable:
            b = board.at[j]
            if b == a or not board.changes_places(i, j):
                continue
            self.left -= 1
            theirs = board.amounts(j)
            net = (mine[0] - theirs[0], mine[1] - theirs[1], mine[2] - theirs[2])
            gain = before - score(b, net) - self._extra(i, b) - self._extra(j, a)
            if best is None or gain > best[0] + EPSILON:
                best = (gain, j)
        if best is None or best[0] <= EPSILON:
            return False
        b = board.at[best[1]]
        board.move(i, b)
        board.move(best[1], a)
        return True

    def _extra(self, i: int, n: int) -> float:
        """What being on node n costs more than being where it is."""
        home = self.board.home[i]
        return self.cost[i] * ((n != home) - (self.board.at[i] != home))
