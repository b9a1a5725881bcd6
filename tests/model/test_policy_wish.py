"""A stricter policy than what was promised allows: refused with whom it is about, or waited for while they move away."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, VmId
from libs.common.testing import Spec
from libs.memory.promise import promise_of
from proto.ladder import MemoryPolicy, VmMoveWanted
from proto.machine import Priority
from proto.memory import (
    AdvancePolicy,
    Area,
    CapacityCause,
    CapacitySet,
    LedgerEvent,
    MemoryDenied,
    MemoryPolicyDropped,
    MemoryPolicyWanted,
    MemoryReleased,
    MemoryReserved,
    Promise,
    Refusal,
    ReleaseMemory,
    ReserveMemory,
    SetMemoryPolicy,
)
from services.memory.model import LEDGER
from services.memory.policy_wish import AGAIN_US, ATTEMPTS_MAX
from services.memory.relief import relief
from services.memory.states import Ledger

ledger = Spec(LEDGER)
AREAS = (Area(name="host", min_mib=1000),)
HOST = CapacitySet(node=NodeId("n1"), capacity_mib=4000, physical_mib=5000, areas=AREAS, areas_set=True)
STRICT = MemoryPolicy(ratio_pct=100)
SET = SetMemoryPolicy(node="n1", policy=STRICT)
CRIT, IMP, NORM, BEST = Priority


def full() -> tuple[LedgerEvent, ...]:
    """4500 MiB nominal: 3000 by the ratio of 150 %, and more than there is by one of 100 %."""
    events: list[LedgerEvent] = [HOST]
    for vm, nominal, priority in (("norm", 2000, NORM), ("best", 1000, BEST), ("imp", 1500, IMP)):
        promise = Promise(nominal_mib=nominal, reservation_mib=100, priority=priority)
        command = ReserveMemory(node="n1", vm=vm, generation=1, promise=promise)
        events += LEDGER.decide(command, LEDGER.fold(events))
    assert all(isinstance(event, CapacitySet | MemoryReserved) for event in events)
    return tuple(events)


def advance(now_us: int = 1) -> AdvancePolicy:
    return AdvancePolicy(node="n1", now_us=now_us)


def wanted() -> tuple[LedgerEvent, ...]:
    return (*full(), MemoryPolicyWanted(node=NodeId("n1"), policy=STRICT, vms=(VmId("best"),)))


def test_it_is_refused_with_the_vms_it_is_about() -> None:
    refusal = ledger.given(*full()).when(SET).refused(Refusal.BREAKS_PROMISES).refusal
    assert refusal is not None
    assert "4500 of 4000 MiB of nominal memory by its ratio" in refusal.sentence
    assert "move or stop best first (--drain shows where to)" in refusal.remedy


def test_with_drain_it_is_waited_for_and_the_old_one_holds() -> None:
    drain = replace(SET, drain=True)
    ledger.given(*full()).when(drain).then(MemoryPolicyWanted(node=NodeId("n1"), policy=STRICT, vms=(VmId("best"),))).twice()
    state = LEDGER.fold(wanted())
    assert isinstance(state, Ledger) and state.policy == MemoryPolicy()
    (wish,) = ledger.given(*wanted()).when(advance()).events
    assert isinstance(wish, VmMoveWanted) and (wish.vm, wish.at_us) == ("best", 1)
    ledger.given(*wanted(), wish).when(advance(2)).nothing()
    gone = LEDGER.decide(ReleaseMemory(node="n1", vm="best", generation=1), LEDGER.fold((*wanted(), wish)))
    (set_,) = ledger.given(*wanted(), wish, *gone).when(advance(3)).events
    assert isinstance(set_, CapacitySet) and (set_.policy, set_.cause) == (STRICT, CapacityCause.POLICY)
    ledger.given(*wanted(), wish, *gone, set_).when(advance(4)).nothing()


def test_meanwhile_nobody_takes_the_room_that_others_leave() -> None:
    new = ReserveMemory(node="n1", vm="new", generation=1, promise=promise_of(100, NORM))
    (before,) = ledger.given(*full()).when(new).events
    assert isinstance(before, MemoryReserved)
    (after,) = ledger.given(*wanted()).when(new).events
    assert isinstance(after, MemoryDenied)


def test_who_does_not_go_is_asked_again_and_then_it_is_dropped() -> None:
    events = list(wanted())
    for n in range(ATTEMPTS_MAX):
        (wish,) = ledger.given(*events).when(advance(n * AGAIN_US + 1)).events
        assert isinstance(wish, VmMoveWanted)
        events.append(wish)
    (dropped,) = ledger.given(*events).when(advance(ATTEMPTS_MAX * AGAIN_US + 1)).events
    assert isinstance(dropped, MemoryPolicyDropped) and "best would have to go" in dropped.sentence
    state = LEDGER.fold((*events, dropped))
    assert isinstance(state, Ledger) and state.wanted is None and state.policy == MemoryPolicy()


def test_the_policy_that_holds_already_takes_the_wish_back() -> None:
    (dropped,) = ledger.given(*wanted()).when(SetMemoryPolicy(node="n1", policy=MemoryPolicy())).events
    assert isinstance(dropped, MemoryPolicyDropped)


def test_critical_vms_alone_can_be_too_many_and_then_nobody_moves() -> None:
    crit = Promise(nominal_mib=3900, reservation_mib=3900, priority=CRIT)
    reserved = LEDGER.decide(ReserveMemory(node="n1", vm="crit", generation=1, promise=crit), LEDGER.fold([HOST]))
    shrunk = replace(HOST, capacity_mib=3000, physical_mib=4000)
    given = ledger.given(HOST, *reserved, shrunk)
    assert given.when(replace(SET, drain=True)).events, "it makes nothing worse: critical VMs count whole anyway"
    assert relief({"crit": crit}, STRICT, AREAS, 3000) == ((), False)


@pytest.mark.parametrize(
    "room, going",
    [
        *((4500, ()), (4499, ("best",)), (3500, ("best",)), (3499, ("norm",)), (2500, ("norm",))),
        *((1499, ("imp", "norm")), (999, ("best", "imp", "norm"))),
    ],
)
def test_who_has_to_go_is_the_least_of_the_cheapest(room: int, going: tuple[str, ...]) -> None:
    state = LEDGER.fold(full())
    assert isinstance(state, Ledger)
    found, enough = relief({vm: r.promise for vm, r in state.reserved.items()}, STRICT, (), room)
    assert enough and tuple(sorted(found)) == going


def test_a_released_vm_is_asked_for_no_more() -> None:
    state = LEDGER.fold((*wanted(), MemoryReleased(node=NodeId("n1"), vm=VmId("best"), generation=1, released_mib=1000)))
    (set_,) = LEDGER.decide(advance(), state)
    assert isinstance(set_, CapacitySet)
