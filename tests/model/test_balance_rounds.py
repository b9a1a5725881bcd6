"""When the rebalancer acts: hysteresis, rest, at most so many at once; and a day of noise in which it may not thrash."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from libs.common.messages import VmId
from libs.common.testing import Given, Spec
from proto.balance import (
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
    Refusal,
    Rules,
    SetBalance,
)
from services.compute.balance.board import Board
from services.compute.balance.demand import Smoothed
from services.compute.balance.model import BALANCE, Balance
from tests.model.test_balance import cluster, vm

S = 1_000_000
T0 = 1_800_000_000 * S
RULES = Rules(hold_s=180, batch_rest_s=300, vm_rest_s=7200, idle_rest_s=3600, move_s_max=600, at_once_max=2)
AUTO = BalanceSet(mode=Mode.AUTO, rules=RULES)

UNEVEN = cluster(3, *(vm(f"v{i}", "n1", demand_pcpus=1.0) for i in range(7)))
EVEN = cluster(3, *(vm(f"v{i}", f"n{i % 3 + 1}", demand_pcpus=1.0) for i in range(6)))
SCORE = Board(UNEVEN, RULES).score()

balance = Spec(BALANCE)


def look(after_s: float, load: ClusterLoad | None = UNEVEN) -> LookAtBalance:
    return LookAtBalance(now_us=T0 + int(after_s * S), load=load)


def began(after_s: float = 0) -> ImbalanceBegan:
    return ImbalanceBegan(score=SCORE, threshold=RULES.threshold, at_us=T0 + int(after_s * S))


def batch(
    given: Given[BalanceCommand, Balance, BalanceEvent], after_s: float, load: ClusterLoad = UNEVEN
) -> Sequence[MovePlanned]:
    events = given.when(look(after_s, load)).events
    assert events and all(isinstance(e, MovePlanned) for e in events), events
    return events  # type: ignore[return-value]


def test_it_is_off_at_first_and_then_as_it_is_set() -> None:
    balance.given().when(look(0)).nothing()
    balance.given().when(SetBalance(mode=Mode.AUTO, rules=RULES)).then(AUTO).twice()
    kept = SetBalance(mode=Mode.ADVISE)
    balance.given(AUTO).when(kept).then(BalanceSet(mode=Mode.ADVISE, rules=RULES)).twice()
    balance.given(AUTO, BalanceSet(mode=Mode.ADVISE, rules=RULES)).when(look(0)).nothing()


def test_nothing_is_decided_without_facts_or_with_one_node() -> None:
    balance.given(AUTO).when(look(0, None)).nothing()
    balance.given(AUTO).when(look(0, cluster(1, vm("a", "n1")))).nothing()


def test_an_imbalance_must_hold_before_anything_moves() -> None:
    balance.given(AUTO).when(look(0)).then(began())
    balance.given(AUTO, began()).when(look(179)).nothing()
    moves = batch(balance.given(AUTO, began()), 180)
    assert 1 <= len(moves) <= RULES.at_once_max
    assert all(m.gain == pytest.approx(m.score_before - m.score_after) for m in moves)
    assert all(m.reason and m.policy for m in moves)


def test_what_evens_out_by_itself_moves_nothing() -> None:
    ended = balance.given(AUTO, began()).when(look(100, EVEN)).events
    assert [type(e) for e in ended] == [ImbalanceEnded]
    balance.given(AUTO, began(), *ended).when(look(200)).then(began(200))


def test_between_threshold_and_calm_nothing_begins_or_ends() -> None:
    between = cluster(3, vm("a", "n1"), vm("b", "n2"), vm("c", "n3"), vm("d", "n3", vcpus=4))
    score = Board(between, RULES).score()
    assert RULES.threshold * RULES.calm_share < score < RULES.threshold
    balance.given(AUTO).when(look(0, between)).nothing()
    balance.given(AUTO, began()).when(look(10, between)).nothing()


def test_the_next_batch_waits_for_the_end_of_this_one_and_for_what_it_changed() -> None:
    moves = batch(balance.given(AUTO, began()), 180)
    after = balance.given(AUTO, began(), *moves)
    after.when(look(181)).nothing()
    ended = [MoveEnded(vm=m.vm, moved=True, sentence="", at_us=T0 + 200 * S) for m in moves]
    rest = balance.given(AUTO, began(), *moves, *ended)
    rest.when(look(499)).nothing()
    places = {m.vm: m.target for m in moves}
    then = ClusterLoad(nodes=UNEVEN.nodes, vms=tuple(replace(v, node=places.get(v.vm, v.node)) for v in UNEVEN.vms))
    more = batch(rest, 500, then)
    assert not {m.vm for m in more} & set(places)


def test_a_vm_that_moved_rests() -> None:
    moves = batch(balance.given(AUTO, began()), 180)
    ended = [MoveEnded(vm=m.vm, moved=False, sentence="no", at_us=T0 + 200 * S) for m in moves]
    state = balance.given(AUTO, began(), *moves, *ended).state
    assert state.resting(T0 + 200 * S + 7199 * S) == {m.vm for m in moves}
    assert state.resting(T0 + 200 * S + 7200 * S) == frozenset()


def test_a_move_of_which_nothing_is_heard_has_failed() -> None:
    moves = batch(balance.given(AUTO, began()), 180)
    given = balance.given(AUTO, began(), *moves)
    given.when(look(180 + 600)).nothing()
    events = given.when(look(180 + 601)).events
    ends = [e for e in events if isinstance(e, MoveEnded)]
    assert [(e.vm, e.moved) for e in ends] == sorted((m.vm, False) for m in moves)
    assert [e.left for e in ends] == list(reversed(range(len(moves))))
    given.when(NoteMoveEnded(vm=moves[0].vm, moved=True, now_us=T0)).twice()
    given.when(NoteMoveEnded(vm="someone-else", moved=True, now_us=T0)).nothing()


def test_where_nothing_is_worth_a_move_it_says_so_and_looks_again_later() -> None:
    fixed = ClusterLoad(nodes=UNEVEN.nodes, vms=tuple(replace(v, fixed="pinned to pCPUs") for v in UNEVEN.vms))
    given = balance.given(AUTO, began())
    events = given.when(look(180, fixed)).events
    assert [type(e) for e in events] == [NoMoveFound]
    rest = balance.given(AUTO, began(), *events)
    rest.when(look(180 + 3599)).nothing()
    assert batch(rest, 180 + 3600)


def test_the_margin_is_asked_of_the_whole_plan() -> None:
    eager, proud = RULES, replace(RULES, margin_share=0.999)
    assert batch(balance.given(BalanceSet(mode=Mode.AUTO, rules=eager), began()), 180)
    events = balance.given(BalanceSet(mode=Mode.AUTO, rules=proud), began()).when(look(180)).events
    assert [type(e) for e in events] == [NoMoveFound]


def test_a_person_may_apply_the_first_batch_at_once_in_either_mode() -> None:
    now = ApplyBalance(load=UNEVEN, now_us=T0)
    moves = balance.given().when(now).events
    assert 1 <= len(moves) <= Rules().at_once_max and all(isinstance(m, MovePlanned) for m in moves)
    balance.given(*moves).when(now).refused(Refusal.MOVES_UNDER_WAY)
    assert len(balance.given(AUTO).when(now).events) == len(moves)
    ended = [NoteMoveEnded(vm=m.vm, moved=True, now_us=T0 + S) for m in moves if isinstance(m, MovePlanned)]
    state = balance.given(*moves).state
    for left, note in zip(reversed(range(len(ended))), ended, strict=True):
        (end,) = BALANCE.decide(note, state)
        assert isinstance(end, MoveEnded) and end.left == left
        state = BALANCE.evolve(state, end)
    assert not state.moving


def test_what_is_even_or_rests_is_not_applied() -> None:
    refused = balance.given().when(ApplyBalance(load=EVEN, now_us=T0)).refused(Refusal.NOTHING_TO_MOVE)
    assert refused.refusal is not None and "0.000" in refused.refusal.sentence
    balance.given().when(ApplyBalance()).refused(Refusal.NOTHING_TO_MOVE)
    ends = [MoveEnded(vm=v.vm, moved=True, sentence="", at_us=T0) for v in UNEVEN.vms]
    rest = balance.given(*ends).when(ApplyBalance(load=UNEVEN, now_us=T0 + S)).refused(Refusal.NOTHING_TO_MOVE)
    assert rest.refusal is not None and "7 VMs moved lately" in rest.refusal.sentence


def test_moves_that_were_applied_run_out_in_mode_advise_too() -> None:
    moves = balance.given().when(ApplyBalance(load=UNEVEN, now_us=T0)).events
    late = balance.given(*moves).when(look(Rules().move_s_max + 1)).events
    assert {type(e) for e in late} == {MoveEnded}
    balance.given(*moves, *late).when(look(Rules().move_s_max + 2)).nothing()


def test_a_move_that_has_not_begun_after_half_a_minute_is_over() -> None:
    moves = batch(balance.given(AUTO, began()), 180)
    given = balance.given(AUTO, began(), *moves)
    first, *others = sorted(m.vm for m in moves)
    under_way = replace(look(180 + 31), under_way=tuple(others))
    events = given.when(under_way).events
    assert [(e.vm, e.moved, e.left) for e in events if isinstance(e, MoveEnded)] == [(first, False, len(others))]
    given.when(replace(under_way, now_us=T0 + 209 * S)).nothing()
    given.when(replace(under_way, under_way=(first, *others))).nothing()


GROUP = cluster(2, *(vm(f"db-{i}", "n1", together="db") for i in range(3)), *(vm(n, "n1") for n in ("a", "b", "c")))
WHOLE = Rules(gain_min=0.001, at_once_max=1)


def whole() -> list[MovePlanned]:
    set_so = BalanceSet(mode=Mode.ADVISE, rules=WHOLE)
    load = replace(GROUP, vms=tuple(replace(v, fixed="" if v.together else "pinned to pCPUs") for v in GROUP.vms))
    moves = balance.given(set_so).when(ApplyBalance(load=load, now_us=T0)).events
    assert all(isinstance(m, MovePlanned) for m in moves)
    return [m for m in moves if isinstance(m, MovePlanned)]


def note(name: str, moved: bool) -> NoteMoveEnded:
    return NoteMoveEnded(vm=name, moved=moved, now_us=T0 + S, sentence="" if moved else "no node fits")


def test_of_a_group_one_moves_after_the_other_and_the_end_is_that_of_the_last() -> None:
    moves = whole()
    assert [(m.vm, m.waits, m.group) for m in moves] == [(f"db-{i}", i > 0, "db") for i in range(3)]
    given = balance.given(BalanceSet(mode=Mode.ADVISE, rules=WHOLE), *moves)
    assert set(given.state.moving) == {"db-0"} and given.state.resting(T0) == {"db-0", "db-1", "db-2"}
    history: list[BalanceEvent] = [*moves]
    for i, left in ((0, 2), (1, 1), (2, 0)):
        events = balance.given(BalanceSet(mode=Mode.ADVISE, rules=WHOLE), *history).when(note(f"db-{i}", True)).events
        end, *begun = events
        assert isinstance(end, MoveEnded) and (end.left, end.failed) == (left, 0)
        assert [(m.vm, m.waits) for m in begun if isinstance(m, MovePlanned)] == [(f"db-{i + 1}", False)][: min(left, 1)]
        history += events
    state = balance.given(*history).state
    assert not state.moving and not state.waiting and (state.moved, state.failed) == (0, 0)


def test_a_group_of_which_the_first_cannot_move_stays_whole() -> None:
    given = balance.given(BalanceSet(mode=Mode.ADVISE, rules=WHOLE), *whole())
    events = given.when(note("db-0", False)).events
    ends = [e for e in events if isinstance(e, MoveEnded)]
    assert ends == list(events) and [(e.vm, e.left, e.failed) for e in ends] == [("db-0", 2, 1), ("db-1", 1, 2), ("db-2", 0, 3)]
    assert not balance.given(*whole(), *events).state.waiting


def test_a_group_of_which_one_has_moved_goes_on_to_be_whole_again() -> None:
    set_so = BalanceSet(mode=Mode.ADVISE, rules=WHOLE)
    history = [*whole(), *balance.given(set_so, *whole()).when(note("db-0", True)).events]
    end, begun = balance.given(set_so, *history).when(note("db-1", False)).events
    assert isinstance(end, MoveEnded) and (end.left, end.failed) == (1, 1)
    assert isinstance(begun, MovePlanned) and begun.vm == "db-2" and not begun.waits


# --- forward through a day ---------------------------------------------------------------------------------------------

ROUND_S = 30
DAY_S = 86_400
MOVE_S = 60


class Day:
    """A cluster lives for a day under the rebalancer: each VM's demand wanders (mean-reverting noise of a third of its size) and
    bursts some three times a day, by one to three pCPUs; moves take a minute. moved: how often each VM was moved; scores: as each
    round found it."""

    def __init__(self, seed: int, rules: Rules, crowded: bool, smooth: bool = True) -> None:
        self.smooth = smooth
        self.chance = random.Random(seed)
        vms = [vm(f"v{i:02}", f"n{(i % 3 if crowded else i % 6) + 1}", vcpus=2, memory_mib=1024) for i in range(36)]
        self.load = cluster(6, *vms, memory_mib=24_576)
        self.usual = {v.vm: self.chance.uniform(0.2, 1.4) for v in vms}
        self.base, self.now = dict(self.usual), dict(self.usual)
        self.burst: dict[str, float] = {}
        self.smoothed = {name: Smoothed(usual, T0 - ROUND_S * S) for name, usual in self.usual.items()}
        self.state = BALANCE.fold([BalanceSet(mode=Mode.AUTO, rules=rules)])
        self.under: list[tuple[float, MovePlanned]] = []
        self.moved: Counter[VmId] = Counter()
        self.scores: list[float] = []
        self.planned_at: list[float] = []

    def run(self, noisy: str = "", noisy_s: tuple[float, float] = (0, 0), until_s: int = DAY_S) -> Day:
        """noisy: a VM that wants six pCPUs for that part of the day."""
        for at_s in range(0, until_s, ROUND_S):
            self._land(at_s)
            self._wander()
            if noisy and noisy_s[0] <= at_s < noisy_s[1]:
                self.now[VmId(noisy)] = 6.0
            self._round(at_s)
        return self

    def _land(self, at_s: float) -> None:
        for done_s, move in [pair for pair in self.under if pair[0] <= at_s]:
            self.under.remove((done_s, move))
            vms = tuple(replace(v, node=move.target) if v.vm == move.vm else v for v in self.load.vms)
            self.load = replace(self.load, vms=vms)
            note = NoteMoveEnded(vm=move.vm, moved=True, now_us=T0 + int(at_s * S))
            self.state = BALANCE.fold(BALANCE.decide(note, self.state), self.state)

    def _wander(self) -> None:
        for name, usual in self.usual.items():
            if self.chance.random() < 0.001:
                self.burst[name] = self.chance.uniform(1, 3)
            self.burst[name] = self.burst.get(name, 0.0) * 0.9
            self.base[name] += 0.2 * (usual - self.base[name]) + self.chance.gauss(0, usual / 5)
            self.now[name] = max(0.0, self.base[name]) + self.burst[name]

    def _round(self, at_s: float) -> None:
        """The policy sees what was smoothed as for it; the day is judged by what was really wanted."""
        for name, pcpus in self.now.items():
            self.smoothed[name].hear(pcpus, T0 + int(at_s * S))
        self.scores.append(Board(self._facts(self.now), self.state.rules).score())
        told = {name: smoothed.pcpus for name, smoothed in self.smoothed.items()} if self.smooth else self.now
        facts = self._facts(told)
        events: Sequence[BalanceEvent] = BALANCE.decide(look(at_s, facts), self.state)
        self.state = BALANCE.fold(events, self.state)
        for event in events:
            if isinstance(event, MovePlanned):
                self.under.append((at_s + MOVE_S, event))
                self.moved[event.vm] += 1
                self.planned_at.append(at_s)
        assert len(self.state.moving) <= self.state.rules.at_once_max

    def _facts(self, demand: dict[VmId, float]) -> ClusterLoad:
        return replace(self.load, vms=tuple(replace(v, demand_pcpus=demand[v.vm]) for v in self.load.vms))


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_moves_next_to_nothing(seed: int) -> None:
    """An even cluster under a day of noise."""
    day = Day(seed, Rules(), crowded=False).run()
    assert day.moved.total() / 36 <= 0.5, day.moved
    assert max(day.moved.values(), default=0) <= 2, day.moved


@pytest.mark.parametrize("seed", range(4))
def test_a_crowded_cluster_is_evened_out_once_and_then_left_alone(seed: int) -> None:
    day = Day(seed, Rules(), crowded=True).run()
    before, after = day.scores[0], sum(day.scores[-100:]) / 100
    assert after < 0.35 * before, (before, after)
    assert day.moved.total() / 36 <= 1.0, day.moved
    assert max(day.moved.values()) <= 4, day.moved
    late = [at_s for at_s in day.planned_at if at_s > 6 * 3600]
    assert len(late) <= 18, late


def test_without_hold_rest_price_and_smoothing_the_same_noise_thrashes() -> None:
    """The guards are what keeps it still: the same third of an hour without them."""
    bare = Rules(hold_s=0, vm_rest_s=0, batch_rest_s=0, gain_min=1e-6, margin_share=0.0, threshold=0.05)
    calm = Day(0, Rules(), crowded=False).run(until_s=1200).moved.total()
    wild = Day(0, bare, crowded=False, smooth=False).run(until_s=1200).moved.total()
    assert wild > 10 * max(1, calm), (wild, calm)


def test_a_noisy_neighbour_gets_room_and_the_others_stay() -> None:
    """For six hours one VM wants six of its node's eight pCPUs. Its neighbours are not left waiting, in few moves."""
    day = Day(1, Rules(), crowded=False).run("v00", (4 * 3600, 10 * 3600))
    during = [at_s for at_s in day.planned_at if 4 * 3600 <= at_s < 10 * 3600]
    assert 1 <= len(during) <= 20, during
    rounds = slice(4 * 3600 // ROUND_S, 10 * 3600 // ROUND_S)
    first, last = day.scores[rounds][:6], day.scores[rounds][-60:]
    assert sum(last) / len(last) < 0.7 * sum(first) / len(first)
