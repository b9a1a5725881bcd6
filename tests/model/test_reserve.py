"""The reserve for lost nodes: any N of them, by brute force; what is set and when; how ledgers keep it."""

from __future__ import annotations

from itertools import combinations
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.messages import NodeId, Recorded, VmId
from libs.common.testing import Spec
from libs.memory.promise import promise_of
from libs.memory.prove import Proof as LogProof
from proto.compute import NodeCordoned, NodeReported, VmDefined
from proto.guard import Cause, Guard, GuardSet, Mode, VmOwed
from proto.ladder import MemoryPolicy
from proto.lease import HaSet, HaSettings, NodeLost, NodeReturned, Proof, ProofKind, Reserve
from proto.machine import Priority
from proto.memory import (
    CapacityCause,
    CapacitySet,
    KeepReserve,
    MemoryDenied,
    MemoryReleased,
    MemoryReserved,
    NoteHost,
    Purpose,
    ReserveMemory,
    SetFailoverShare,
    SetMemoryPolicy,
)
from proto.reserve import Plan, ReserveSet, WeighReserve
from services.ha.reserve import LOWER_US, RESERVE
from services.ha.reserve_rule import STEP_MIB, Room, covered, holds, plan
from services.ha.views import Views
from services.memory.model import LEDGER
from services.memory.react import react as memory_react
from services.memory.views import Views as MemoryViews
from tests.model.compute_story import DEFINED
from tests.model.test_nodes import CAN

N1 = NodeId("n1")
ONE, TWO = HaSettings(), HaSettings(reserve_nodes=2)
needs = st.lists(st.integers(1, 900), max_size=6).map(tuple)
rooms = st.dictionaries(
    st.sampled_from([f"n{i}" for i in range(6)]),
    st.tuples(needs, st.integers(0, 2000)).map(lambda t: Room(4000, min(4000, sum(t[0]) + t[1]), t[0])),
    min_size=1,
)


def packed(there: dict[str, Room], shares: dict[str, int], lost: tuple[str, ...], waiting: list[int], order: Random) -> bool:
    """They come in that order, and each goes to whichever node of those that have room the order says."""
    left = {name: mib for name, mib in shares.items() if name not in lost}
    coming = [*waiting, *(mib for name in lost for mib in there[name].needs)]
    order.shuffle(coming)
    for mib in coming:
        fits = sorted(name for name, free in left.items() if free >= mib)
        if not fits:
            return False
        left[order.choice(fits)] -= mib
    return True


@settings(max_examples=300, deadline=None)
@given(rooms, st.integers(0, 3), st.sampled_from([[], [], [300], [200, 700]]), st.randoms(use_true_random=False))
def test_whichever_nodes_are_lost_their_vms_find_room_on_the_others_in_any_order(
    there: dict[str, Room], nodes: int, waiting: list[int], order: Random
) -> None:
    found = plan(HaSettings(reserve_nodes=nodes), there, (), waiting)
    assert found.shares.keys() == there.keys()
    assert all(0 <= mib <= there[name].free_mib for name, mib in found.shares.items())
    if found.covers < found.wanted:
        assert found.sentence and (found.missing_mib or len(there) <= nodes)
        return
    if not found.missing_mib:
        for which in combinations(sorted(there), found.wanted):
            assert all(packed(there, found.shares, which, waiting, order) for _ in range(3))


@settings(max_examples=200, deadline=None)
@given(rooms, st.integers(1, 3))
def test_no_lower_level_would_do_and_what_is_missing_would(there: dict[str, Room], nodes: int) -> None:
    found = plan(HaSettings(reserve_nodes=nodes), there)
    if found.covers < found.wanted:
        if len(there) > nodes:
            more = {name: mib + found.missing_mib // len(there) for name, mib in found.shares.items()}
            assert holds(there, more, nodes)
        return
    level = max(found.shares.values())
    lower = {name: min(room.free_mib, (level - 1) // STEP_MIB * STEP_MIB) for name, room in there.items()}
    assert level <= STEP_MIB or lower == found.shares or not holds(there, lower, nodes)


def test_in_figures() -> None:
    three = {f"n{i}": Room(1000, 400, (100,) * 4, f"vm-{i}") for i in (1, 2, 3)}
    found = plan(ONE, three)
    assert set(found.shares.values()) == {224} and (found.covers, found.missing_mib, found.demand_mib) == (1, 0, 400)
    assert plan(TWO, three).covers == 1 and plan(TWO, three).missing_mib == 600
    assert "1 of 2" in plan(TWO, three).sentence
    full = {name: Room(1000, 900, (900,), "big") for name in three}
    short = plan(ONE, full)
    assert set(short.shares.values()) == {100} and short.covers == 0 and short.missing_mib == 2400
    assert short.sentence.startswith("no loss of a node is covered: 2400 MiB more")
    assert "the largest VM of n1, n2, n3 would not fit" in short.sentence and short.too_large == ("big",) * 3


def test_vms_are_whole() -> None:
    """Five of 100 do not fit into two nodes with 250 free each."""
    there = {"n1": Room(1000, 500, (100,) * 5), "n2": Room(1000, 0), "n3": Room(1000, 0)}
    assert set(plan(ONE, there).shares.values()) == {320}
    assert not holds(there, dict.fromkeys(there, 250), 1) and holds(there, dict.fromkeys(there, 300), 1)


def test_a_node_alone_keeps_nothing_for_others() -> None:
    found = plan(ONE, {"n1": Room(1000, 400, (400,))})
    assert found.shares == {"n1": 0} and "1 node takes VMs" in found.sentence
    assert plan(ONE, {}).shares == {}


def test_what_is_lost_is_no_more_to_be_covered_and_its_vms_have_room() -> None:
    two = {"n2": Room(1000, 300, (300,)), "n3": Room(1000, 300, (300,))}
    found = plan(ONE, two, ("n1",), (250, 250))
    assert (found.wanted, found.away, found.waiting_mib) == (0, ("n1",), 500)
    assert holds(two, found.shares, 0, (250, 250))
    found = plan(TWO, two, ("n1",), (200,))
    assert found.wanted == 1 and holds(two, found.shares, 1, (200,))


def test_percent_and_none() -> None:
    there = {"n1": Room(1000, 100, (100,)), "n2": Room(2000, 1900, (100,))}
    found = plan(HaSettings(reserve=Reserve.PERCENT, reserve_pct=20), there)
    assert found.shares == {"n1": 200, "n2": 100} and found.missing_mib == 300 and "300 MiB" in found.sentence
    none = plan(HaSettings(reserve=Reserve.NONE), there)
    assert set(none.shares.values()) == {0} and not none.sentence
    assert covered(there, found.shares) == 1


# --- when it is set -----------------------------------------------------------------------------------------------------

LOW, HIGH = Plan(shares={"n1": 100}), Plan(shares={"n1": 200})


def weigh(plan: Plan | None, now_us: int = 0) -> WeighReserve:
    return WeighReserve(now_us=now_us, plan=plan)


def test_it_grows_at_once_and_shrinks_a_little_later() -> None:
    reserve = Spec(RESERVE)
    reserve.given().when(weigh(LOW)).then(ReserveSet(at_us=0, plan=LOW)).twice()
    reserve.given(ReserveSet(at_us=0, plan=LOW)).when(weigh(HIGH, 1)).then(ReserveSet(at_us=1, plan=HIGH)).twice()
    high = reserve.given(ReserveSet(at_us=0, plan=HIGH))
    high.when(weigh(LOW, LOWER_US - 1)).nothing()
    high.when(weigh(LOW, LOWER_US)).then(ReserveSet(at_us=LOWER_US, plan=LOW))
    lost = msgspec.structs.replace(LOW, away=("n2",))
    high.when(weigh(lost, 1)).then(ReserveSet(at_us=1, plan=lost))
    high.when(weigh(None, 99 * LOWER_US)).nothing()


# --- what it is made of -------------------------------------------------------------------------------------------------


class Cluster:
    def __init__(self) -> None:
        self.views, self.position = Views(), 0
        shared = msgspec.structs.replace(CAN, pool_ids={"default": "w"})
        for name in ("n1", "n2", "n3"):
            self.tell(NodeReported(node=NodeId(name), capabilities=shared, boot_id="b"))
            self.tell(CapacitySet(node=NodeId(name), capacity_mib=4000))

    def tell(self, *events: Any) -> None:
        for event in events:
            self.position += 1
            self.views.apply(Recorded(self.position, "s", 1, "t", 1, 0, b"", b""), event)

    def start(self, vm: str, node: str, mib: int = 1000) -> None:
        promise = promise_of(mib, Priority.CRITICAL)
        held = [*self.views.reserve.ledgers[node].vms.values(), promise]
        total = sum(one.nominal_mib + one.overhead_mib for one in held)
        defined: VmDefined = msgspec.structs.replace(DEFINED, vm=VmId(vm))
        self.tell(defined, MemoryReserved(
            node=NodeId(node), vm=VmId(vm), generation=1, memory_mib=mib, reserved_mib=total, charged_mib=total,
            capacity_mib=4000, promise=promise,
        ))  # fmt: skip

    @property
    def plan(self) -> Plan:
        return self.views.reserve.weighed(self.views.guards)


NEED = 1000 + promise_of(1000, Priority.CRITICAL).overhead_mib


def test_it_follows_vms_and_nodes() -> None:
    cluster = Cluster()
    assert set(cluster.plan.shares.values()) == {0}
    cluster.start("a", "n1")
    assert cluster.plan.demand_mib == NEED and cluster.plan.covers == 1
    cluster.tell(GuardSet(vm=VmId("a"), guard=Guard(mode=Mode.IN_PLACE)))
    assert cluster.plan.demand_mib == 0, "it would not go elsewhere"
    cluster.tell(GuardSet(vm=VmId("a"), guard=Guard()))
    assert cluster.plan.demand_mib == NEED
    cluster.tell(HaSet(settings=HaSettings(reserve=Reserve.NONE)))
    assert set(cluster.plan.shares.values()) == {0}


def test_a_lost_node_takes_nothing_and_what_it_had_is_waited_for() -> None:
    cluster = Cluster()
    cluster.start("a", "n1")
    cluster.tell(NodeLost(node=N1, boot_id="b", epoch=1, at_us=0, proof=Proof(kind=ProofKind.LEASE, at_us=0)))
    assert cluster.plan.away == ("n1",) and cluster.plan.shares.keys() == {"n2", "n3"}
    assert (cluster.plan.wanted, cluster.plan.waiting_mib) == (0, NEED) and max(cluster.plan.shares.values()) >= NEED
    cluster.tell(MemoryReleased(node=N1, vm=VmId("a"), generation=1, released_mib=1000))
    assert cluster.plan.waiting_mib == 0
    cluster.tell(VmOwed(vm=VmId("a"), cause=Cause.NODE_LOST, node=N1, generation=1, at_us=0))
    assert cluster.plan.waiting_mib == NEED
    cluster.start("a", "n2")
    assert cluster.plan.waiting_mib == 0, "it holds its memory there"
    cluster.tell(NodeReturned(node=N1, boot_id="b", epoch=2))
    assert cluster.plan.wanted == 1 and cluster.plan.shares.keys() == {"n1", "n2", "n3"}


def test_a_node_that_is_emptied_is_a_loss_that_was_planned() -> None:
    cluster = Cluster()
    cluster.start("a", "n1")
    cluster.tell(NodeCordoned(node=N1, reason="a new disk"))
    assert (cluster.plan.away, cluster.plan.wanted, cluster.plan.waiting_mib) == (("n1",), 0, NEED)
    cluster.tell(MemoryReleased(node=N1, vm=VmId("a"), generation=1, released_mib=1000))
    assert (cluster.plan.away, cluster.plan.wanted) == ((), 1), "empty, it is no member any more"


def test_it_is_known_after_a_snapshot() -> None:
    cluster = Cluster()
    cluster.start("a", "n1")
    before = cluster.plan
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(cluster.views), type=Views)
    assert again.reserve.weighed(again.guards) == before
    again.reserve.stale = True
    assert again.reserve.weighed(again.guards) == before


# --- how ledgers keep it ------------------------------------------------------------------------------------------------

ledger = Spec(LEDGER)
HOST = NoteHost(node="n1", memory_mib=8000)


def held(*commands: Any) -> Any:
    state = LEDGER.fold(())
    for command in commands:
        state = LEDGER.fold(LEDGER.decide(command, state), state)
    return state


def test_a_ledger_keeps_what_is_free_and_what_was_asked_for() -> None:
    state = held(HOST, KeepReserve(node="n1", reserve_mib=1000))
    assert (state.share_mib, state.reserve_mib, state.asked_mib) == (1000, 1000, 0)
    assert LEDGER.decide(KeepReserve(node="n1", reserve_mib=1000), state) == ()
    state = held(HOST, KeepReserve(node="n1", reserve_mib=1000), SetFailoverShare(node="n1", share_mib=300))
    assert state.share_mib == 1000
    state = held(HOST, SetFailoverShare(node="n1", share_mib=300), KeepReserve(node="n1", reserve_mib=100))
    assert (state.share_mib, state.reserve_mib) == (300, 100)
    (event,) = LEDGER.decide(KeepReserve(node="n1", reserve_mib=0), held(HOST, KeepReserve(node="n1", reserve_mib=9)))
    assert isinstance(event, CapacitySet) and event.cause is CapacityCause.RESERVE and event.share_mib == 0
    promise = promise_of(6000, Priority.CRITICAL)
    full = held(HOST, ReserveMemory(node="n1", vm="a", generation=1, promise=promise), KeepReserve(node="n1", reserve_mib=9000))
    assert full.share_mib == full.capacity_mib - full.reserved_mib, "what is promised is not kept"
    assert LEDGER.decide(KeepReserve(node="n1", reserve_mib=5), held()) == ()


@pytest.mark.parametrize(("purpose", "denied"), [(Purpose.START, True), (Purpose.MIGRATION, False), (Purpose.FAILOVER, False)])
def test_only_failovers_and_what_runs_already_get_it(purpose: Purpose, denied: bool) -> None:
    state = held(HOST, KeepReserve(node="n1", reserve_mib=9000))
    wish = ReserveMemory(node="n1", vm="a", generation=1, promise=promise_of(512, Priority.NORMAL), purpose=purpose)
    (event,) = LEDGER.decide(wish, state)
    assert isinstance(event, MemoryDenied) is denied


def test_what_a_person_asked_to_keep_is_not_for_moves() -> None:
    state = held(HOST, SetFailoverShare(node="n1", share_mib=7000), KeepReserve(node="n1", reserve_mib=9000))
    wish = ReserveMemory(node="n1", vm="a", generation=1, promise=promise_of(512, Priority.NORMAL), purpose=Purpose.MIGRATION)
    (event,) = LEDGER.decide(wish, state)
    assert isinstance(event, MemoryDenied)
    old = CapacitySet(node=N1, capacity_mib=8000, share_mib=700)
    assert old.asked_for_mib == 700, "as it was before anything was kept of itself"


@pytest.mark.parametrize(("purpose", "faults"), [(Purpose.START, 1), (Purpose.MIGRATION, 0), (Purpose.FAILOVER, 0)])
def test_the_proof_over_the_log_knows_who_may_use_it(purpose: Purpose, faults: int) -> None:
    state, proof = held(HOST, KeepReserve(node="n1", reserve_mib=9000)), LogProof()
    commands: tuple[Any, ...] = (HOST, KeepReserve(node="n1", reserve_mib=9000))
    for position, command in enumerate(commands, 1):
        for event in LEDGER.decide(command, held(HOST) if position > 1 else LEDGER.initial):
            proof.look(position, event)
    wish = ReserveMemory(node="n1", vm="a", generation=1, promise=promise_of(512, Priority.NORMAL), purpose=Purpose.FAILOVER)
    (given,) = LEDGER.decide(wish, state)
    proof.look(3, msgspec.structs.replace(given, purpose=purpose))
    assert proof.faults_count == faults, proof.faults


def test_what_is_kept_by_itself_stands_in_no_persons_way() -> None:
    start = ReserveMemory(node="n1", vm="a", generation=1, promise=promise_of(4000, Priority.NORMAL))
    full = held(HOST, start, KeepReserve(node="n1", reserve_mib=9000))
    free = full.capacity_mib - max(full.reserved_mib, full.charged_mib)
    assert full.reserve_mib == free > 500
    strict: Any = LEDGER.fold(LEDGER.decide(SetMemoryPolicy(node="n1", policy=MemoryPolicy(ratio_pct=100)), full), full)
    assert strict.policy.ratio_pct == 100 and strict.share_mib == strict.capacity_mib - strict.charged_mib
    more: Any = LEDGER.fold(LEDGER.decide(SetFailoverShare(node="n1", share_mib=free), full), full)
    assert (more.asked_mib, more.share_mib) == (free, free)


def test_not_even_a_failover_gets_what_areas_hold() -> None:
    state = held(HOST, KeepReserve(node="n1", reserve_mib=9000))
    wish = promise_of(8000, Priority.CRITICAL)
    (event,) = LEDGER.decide(ReserveMemory(node="n1", vm="a", generation=1, promise=wish, purpose=Purpose.FAILOVER), state)
    assert isinstance(event, MemoryDenied)


def test_every_ledger_hears_of_a_plan() -> None:
    views = MemoryViews()
    for name in ("n1", "n2"):
        views.apply(Recorded(1, "s", 1, "t", 1, 0, b"", b""), CapacitySet(node=NodeId(name), capacity_mib=10))
    told = memory_react(ReserveSet(at_us=0, plan=Plan(shares={"n2": 5, "n3": 6})), Recorded(1, "s", 1, "t", 1, 0, b"", b""), views)
    assert told == [KeepReserve(node=n, reserve_mib=mib) for n, mib in (("n1", 0), ("n2", 5), ("n3", 6))]
