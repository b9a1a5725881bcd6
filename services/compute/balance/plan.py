"""A cluster's load in, a bounded list of moves out, each with its reason and the gain that is expected of it.

The same facts give the same plan, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from msgspec.structs import replace

from proto.balance import ClusterLoad, Move, Plan, Rules
from services.compute.balance.board import Board
from services.compute.balance.groups import joined, parted
from services.compute.balance.reasons import reason
from services.compute.balance.search import EPSILON, LOOKS_MAX, Search, costs

POLICY = "balance-2"
"""Name and version of the rules below; raised with each change that could move another VM."""


def plan(load: ClusterLoad, rules: Rules, resting: Iterable[str] = (), looks_max: int = LOOKS_MAX) -> Plan:
    """Moves that are worth it, in an order in which each fits when its turn comes. resting: VMs that stay for now.

    Every batch lowers the score, so the list may end after any. In each, all VMs fit on both their nodes at once. A VM moves once.
    VMs of one `together` group move as a whole.
    """
    stay = frozenset(resting)
    load, units, stays = joined(load, stay)
    lists: list[_List] = []
    for first in (Search.run, Search.run_narrow, Search.walk):
        found, looks_max = _listed(load, rules, stay, looks_max, first)
        lists.append(found)
        if not found.left_over or looks_max <= 0:
            break
    told = _told(load, rules, max(lists, key=lambda found: found.worth).moves)
    return replace(told, moves=parted(told.moves, units), stays=stays)


class _List(NamedTuple):
    """left_over: some moves that the search wanted found no room on the way."""

    moves: Sequence[Move]
    worth: float
    left_over: bool


def _listed(
    load: ClusterLoad, rules: Rules, stay: frozenset[str], looks_max: int, first: Callable[[Search], None]
) -> tuple[_List, int]:
    """Search and order in turn: what was left over for want of room is searched for anew from where the list has led. And the looks
    that are left."""
    board = Board(load, rules)
    moves: list[Move] = []
    left_over, seek = False, first
    parts = {vm.vm: max(1, len(vm.parts)) for vm in load.vms}
    while sum(parts[move.vm] for move in moves) < rules.plan_max:
        search = Search(Board(load, rules, board.at), stay, looks_max)
        seek(search)
        looks_max = search.left
        wanted = {i: search.board.at[i] for i in search.moved()}
        before = len(moves)
        _order(board, wanted, moves)
        left_over = left_over or bool(wanted)
        if len(moves) == before:
            if seek is Search.walk or looks_max <= 0:
                break
            seek = Search.walk
            continue
        if (not wanted and seek is first) or looks_max <= 0:
            break
        stay |= {move.vm for move in moves}
        seek = first
    kept, worth = worthwhile(load, rules, moves)
    return _List(kept, worth, left_over), looks_max


def _told(load: ClusterLoad, rules: Rules, moves: Sequence[Move]) -> Plan:
    board = Board(load, rules)
    terms = board.terms()
    names, nodes = board.names()
    for move in moves:
        board.move(names[move.vm], nodes[move.target])
    after = board.terms()
    return Plan(
        policy=POLICY,
        score=sum(terms.values()),
        planned=sum(after.values()),
        terms=terms,
        planned_terms=after,
        moves=tuple(moves),
    )


def worthwhile(load: ClusterLoad, rules: Rules, moves: Sequence[Move]) -> tuple[Sequence[Move], float]:
    """The list up to the batch after which score and costs are lowest, and what that is worth: where moves were left over for want
    of room, those that were only worth it together with them fall away."""
    board = Board(load, rules)
    cost = dict(zip((vm.vm for vm in board.vms), costs(board), strict=True))
    best, end, worth, seen = 0.0, 0, 0.0, 0
    for _, batch in groupby(moves, key=lambda move: move.batch):
        for move in batch:
            worth += move.gain - cost[move.vm]
            seen += 1
        if worth > best + EPSILON:
            best, end = worth, seen
    return moves[:end], best


def _order(board: Board, wanted: dict[int, int], moves: list[Move]) -> None:
    """Takes from `wanted` to `moves` the best batch that fits, again and again: single moves by what each gains; two that only
    help together, together. What is left at the end waits for room that is not there, or lowers nothing any more."""
    batch = moves[-1].batch + 1 if moves else 0
    index, _ = board.names()
    moves_made = [index[move.vm] for move in moves]
    while wanted:
        chosen = _batch(board, wanted, board.rules.plan_max - _count(board, moves_made))
        if not chosen:
            return
        moves.extend(_moved(board, vm, wanted.pop(vm), batch) for vm in chosen)
        moves_made += chosen
        board.release()
        batch += 1


def _batch(board: Board, wanted: dict[int, int], most: int) -> list[int]:
    """VMs whose moves fit side by side, `most` at most. Leaves the board as it was."""
    chosen: list[int] = []
    room = min(most, board.rules.at_once_max)
    left = {vm: target for vm, target in wanted.items() if _count(board, [vm]) <= most}
    while left and _count(board, chosen) < room:
        more = _best_single(board, left) or (_best_pair(board, left) if len(chosen) + 2 <= room else [])
        if _count(board, [*chosen, *more]) > room and (chosen or len(more) > 1):
            break
        for vm in more:
            board.begin(vm, left.pop(vm))
        chosen += more
        if not more:
            break
    for vm in reversed(chosen):
        board.undo(vm)
    return chosen


def _count(board: Board, chosen: Sequence[int]) -> int:
    """VMs that move; a group is all of its own, and has a batch for itself where it has more VMs than there is room for."""
    return sum(max(1, len(board.vms[vm].parts)) for vm in chosen)


def _best_single(board: Board, left: dict[int, int]) -> list[int]:
    before = board.score()
    best: tuple[float, int] | None = None
    for vm, target in sorted(left.items()):
        if board.fits(vm, target):
            gain = before - board.transfers(board.at[vm])(target, board.amounts(vm))
            if gain > EPSILON and (best is None or gain > best[0] + EPSILON):
                best = (gain, vm)
    return [best[1]] if best else []


def _best_pair(board: Board, left: dict[int, int]) -> list[int]:
    before = board.score()
    best: tuple[float, int, int] | None = None
    for first, target in sorted(left.items()):
        if not board.fits(first, target):
            continue
        board.begin(first, target)
        for second, other in sorted(left.items()):
            if second != first and board.fits(second, other):
                gain = before - board.transfers(board.at[second])(other, board.amounts(second))
                if gain > EPSILON and (best is None or gain > best[0] + EPSILON):
                    best = (gain, first, second)
        board.undo(first)
    return [best[1], best[2]] if best else []


def _moved(board: Board, vm: int, target: int, batch: int) -> Move:
    origin = board.at[vm]
    before, old = board.score(), (list(board.used[origin]), list(board.used[target]), board.terms())
    board.begin(vm, target)
    after = board.score()
    return Move(
        vm=board.vms[vm].vm,
        origin=board.nodes[origin].node,
        target=board.nodes[target].node,
        gain=before - after,
        score_before=before,
        score_after=after,
        batch=batch,
        reason=reason(board, vm, origin, target, *old),
    )
