"""The rebalancer (stream `balance-cluster`). Pure.

    even ──score above the threshold──▶ uneven ──for hold_s──▶ batch of moves ──ended, rested──▶ next batch …
      ▲                                   │
      └───────score below calm_share──────┘

In mode `advise` nothing is begun but what a person applies. A move that was decided is asked for by a reaction; its end, or that it
was refused, comes back as NoteMoveEnded; it is taken for failed where it has not begun after begin_s_max, or not ended after
move_s_max. Of a group that moves as a whole, more VMs than may move at once wait for their turn. Between threshold and calm_share
lies the band in which noise changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

import msgspec
from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import Value, VmId
from proto.balance import (
    CLUSTER,
    ApplyBalance,
    BalanceCommand,
    BalanceEvent,
    BalanceSet,
    ClusterLoad,
    ImbalanceBegan,
    ImbalanceEnded,
    LookAtBalance,
    Mode,
    MoveEnded,
    MovePlanned,
    NoMoveFound,
    NoteMoveEnded,
    Plan,
    Refusal,
    Rules,
    SetBalance,
)
from services.compute.balance.board import Board
from services.compute.balance.plan import plan

RESTING_MAX = 10_000
"""VMs whose last move is remembered; the oldest are forgotten first."""

NAMES_MAX = 5
"""VMs named in one sentence"""

NOTHING = ClusterLoad(nodes=(), vms=())

SECOND_US = 1_000_000


class Under(Value):
    """A move under way."""

    target: str
    at_us: int


class Balance(Value):
    """uneven_us: since when, 0 while even. rest_us: no batch before. rested_us: by VM, when its last move ended (or was begun)."""

    mode: Mode = Mode.ADVISE
    rules: Rules = Rules()
    uneven_us: int = 0
    rest_us: int = 0
    rested_us: dict[str, int] = msgspec.field(default_factory=dict)
    moving: dict[str, Under] = msgspec.field(default_factory=dict)
    waiting: tuple[MovePlanned, ...] = ()
    """of the batch under way, in the order of their turn"""
    moved: int = 0
    failed: int = 0
    """of the batch under way, those that have ended well, and not"""

    def resting(self, now_us: int) -> frozenset[str]:
        """VMs that may not be moved now."""
        since = now_us - self.rules.vm_rest_s * SECOND_US
        resting = frozenset(vm for vm, at_us in self.rested_us.items() if at_us > since)
        return resting | self.moving.keys() | {move.vm for move in self.waiting}


def decide(command: BalanceCommand, state: Balance) -> Sequence[BalanceEvent]:
    match command:
        case SetBalance():
            rules = command.rules or state.rules
            same = (command.mode, rules) == (state.mode, state.rules)
            return () if same else [BalanceSet(mode=command.mode, rules=rules)]
        case LookAtBalance():
            return _expired(command, state) or (_look(command, state) if state.mode is Mode.AUTO else ())
        case ApplyBalance():
            return _apply(command, state)
        case NoteMoveEnded():
            if command.vm not in state.moving:
                return ()
            return _ended(state, command.vm, command.moved, command.sentence, command.now_us)


def _ended(state: Balance, vm: str, moved: bool, sentence: str, now_us: int) -> Sequence[BalanceEvent]:
    """The end of a move, and the beginning of the next that waits. Where nobody of a group has moved yet and one of it could not,
    the others are not begun any more; else they go on, for it is to be whole again."""
    waiting, failed = list(state.waiting), state.failed + (not moved)
    dropped: list[MovePlanned] = []
    if not moved and not state.moved and len(state.moving) == 1:
        dropped, waiting = waiting, []
    left, ends = len(state.moving) - 1 + len(waiting) + len(dropped), []
    ends.append(MoveEnded(vm=VmId(vm), moved=moved, sentence=sentence, at_us=now_us, left=left, failed=failed))
    for n, other in enumerate(dropped, 1):
        said = f"{vm} of its group could not be moved"
        ends.append(
            MoveEnded(vm=other.vm, moved=False, sentence=said, at_us=now_us, left=left - n, failed=failed + n)
        )
    begun = [replace(waiting[0], waits=False, at_us=now_us)] if waiting else []
    return [*ends, *begun]


def _expired(command: LookAtBalance, state: Balance) -> Sequence[BalanceEvent]:
    """Of moves of which nothing was heard; one at a time where others wait for it."""
    now_us, limit_s, begin_s = command.now_us, state.rules.move_s_max, state.rules.begin_s_max
    events: list[BalanceEvent] = []
    for vm, under in sorted(state.moving.items()):
        past_us = now_us - under.at_us
        if past_us > limit_s * SECOND_US:
            said = f"nothing was heard of it for {limit_s} s"
        elif command.under_way is not None and vm not in command.under_way and past_us > begin_s * SECOND_US:
            said = f"it has not begun after {begin_s} s: the VM does not run any more, or its move was refused"
        else:
            continue
        for event in _ended(state, vm, False, said, now_us):
            events.append(event)
            state = evolve(state, event)
    return events


def _look(command: LookAtBalance, state: Balance) -> Sequence[BalanceEvent]:
    load, now_us, rules = command.load, command.now_us, state.rules
    if load is None or len(load.nodes) < 2 or all(node.cordoned for node in load.nodes):
        return ()
    score = Board(load, rules).score()
    if not state.uneven_us:
        began = ImbalanceBegan(score=score, threshold=rules.threshold, at_us=now_us)
        return [began] if score > rules.threshold else ()
    calm = rules.threshold * rules.calm_share
    if score < calm:
        return [ImbalanceEnded(score=score, calm=calm)]
    held = now_us - state.uneven_us >= rules.hold_s * SECOND_US
    if not held or state.moving or now_us < state.rest_us:
        return ()
    return _batch(load, state, now_us)


def _apply(command: ApplyBalance, state: Balance) -> Sequence[BalanceEvent]:
    if state.moving:
        named = ", ".join(sorted(state.moving)[:NAMES_MAX])
        raise Refused(
            Refusal.MOVES_UNDER_WAY, f"{len(state.moving)} moves are under way: {named}", "wait for their end"
        )
    found = plan(command.load or NOTHING, state.rules, state.resting(command.now_us))
    if not found.moves:
        resting = len(state.resting(command.now_us))
        rest = f"; {resting} VMs moved lately and rest" if resting else ""
        said = f"no move would be worth it: the score is {found.score:.3f}{rest}"
        raise Refused(Refusal.NOTHING_TO_MOVE, said, "nothing has to be done")
    return _planned(found, command.now_us, state.rules.at_once_max)


def _batch(load: ClusterLoad, state: Balance, now_us: int) -> Sequence[BalanceEvent]:
    rules = state.rules
    found = plan(load, rules, state.resting(now_us))
    gained, wanted = found.score - found.planned, rules.margin_share * found.score
    if not found.moves or gained < wanted:
        said = (
            f"all moves that are worth it take {gained:.3f} off a score of {found.score:.3f}; {wanted:.3f} is asked for"
        )
        return [NoMoveFound(score=found.score, planned=found.planned, sentence=said, at_us=now_us)]
    return _planned(found, now_us, rules.at_once_max)


def _planned(found: Plan, now_us: int, at_once_max: int) -> Sequence[MovePlanned]:
    """The first batch; beyond those that may move at once, they wait."""
    batch = [move for move in found.moves if move.batch == 0]
    return [
        MovePlanned(
            vm=move.vm,
            source=move.origin,
            target=move.target,
            reason=move.reason,
            gain=move.gain,
            score_before=move.score_before,
            score_after=move.score_after,
            policy=found.policy,
            at_us=now_us,
            waits=n >= at_once_max,
            group=move.group,
        )
        for n, move in enumerate(batch)
    ]


def evolve(state: Balance, event: BalanceEvent) -> Balance:
    rules = state.rules
    match event:
        case BalanceSet():
            return replace(state, mode=event.mode, rules=event.rules, uneven_us=0)
        case ImbalanceBegan():
            return replace(state, uneven_us=event.at_us)
        case ImbalanceEnded():
            return replace(state, uneven_us=0)
        case NoMoveFound():
            return replace(state, rest_us=event.at_us + rules.idle_rest_s * SECOND_US)
        case MovePlanned(waits=True):
            return replace(state, waiting=(*state.waiting, event))
        case MovePlanned():
            moving = state.moving | {event.vm: Under(target=event.target, at_us=event.at_us)}
            rest_us = event.at_us + rules.batch_rest_s * SECOND_US
            waiting = tuple(move for move in state.waiting if move.vm != event.vm)
            rested_us = _rested(state, event.vm, event.at_us)
            return replace(state, moving=moving, waiting=waiting, rested_us=rested_us, rest_us=rest_us)
        case MoveEnded():
            moving = {vm: under for vm, under in state.moving.items() if vm != event.vm}
            waiting = tuple(move for move in state.waiting if move.vm != event.vm)
            over = not moving and not waiting
            return replace(
                state,
                moving=moving,
                waiting=waiting,
                moved=0 if over else state.moved + event.moved,
                failed=0 if over else event.failed,
                rested_us=_rested(state, event.vm, event.at_us),
                rest_us=event.at_us + rules.batch_rest_s * SECOND_US,
            )
        case _:
            assert_never(event)


def _rested(state: Balance, vm: str, at_us: int) -> dict[str, int]:
    """With this VM's move; without those that rest no longer."""
    since = at_us - state.rules.vm_rest_s * SECOND_US
    kept = {other: then for other, then in state.rested_us.items() if then > since and other != vm} | {vm: at_us}
    return dict(list(kept.items())[-RESTING_MAX:])


BALANCE: Decider[BalanceCommand, Balance, BalanceEvent] = Decider(
    kind="balance",
    commands=get_args(BalanceCommand),
    events=get_args(BalanceEvent),
    state=Balance,
    key=lambda command: CLUSTER,
    initial=Balance(),
    decide=decide,
    evolve=evolve,
)
