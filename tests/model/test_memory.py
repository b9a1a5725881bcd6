"""The ledger of a node's memory: it never promises more than there is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.messages import NodeId, Recorded, VmId
from libs.common.testing import Given, Spec
from proto.compute import GoneCause, NodeRemoved, NodeReported, VmStartFailed, VmStopped
from proto.memory import (
    CapacitySet,
    LedgerCommand,
    LedgerEvent,
    MemoryDenied,
    MemoryReleased,
    MemoryReserved,
    ReleaseMemory,
    ReserveMemory,
    SetCapacity,
)
from services.memory.model import LEDGER, Account, Ledger, Unset
from services.memory.policy import capacity_mib, footprint_mib
from services.memory.react import react
from tests.model.test_compute import REQUESTED
from tests.model.test_nodes import CAN

N1, A, B = NodeId("n1"), VmId("a"), VmId("b")
CAPACITY = CapacitySet(node=N1, capacity_mib=1000)
RESERVE = ReserveMemory(node="n1", vm="a", generation=2, memory_mib=600)
RESERVED = MemoryReserved(node=N1, vm=A, generation=2, memory_mib=600, reserved_mib=600, capacity_mib=1000)
RELEASED = MemoryReleased(node=N1, vm=A, generation=2, memory_mib=600)
HISTORIES: dict[str, tuple[LedgerEvent, ...]] = {
    "unset": (),
    "empty": (CAPACITY,),
    "taken": (CAPACITY, RESERVED),
    "shrunk": (CAPACITY, RESERVED, CapacitySet(node=N1, capacity_mib=100)),
    "released": (CAPACITY, RESERVED, RELEASED),
}
ledger = Spec(LEDGER)
HERE = Recorded(1, "vm-a", 1, "t", 1, 0, b"", b"")


def test_a_reservation_in_full() -> None:
    ledger.given(CAPACITY).when(RESERVE).then(RESERVED).twice()
    ledger.given(CAPACITY, RESERVED).when(ReleaseMemory(node="n1", vm="a", generation=2)).then(RELEASED).twice()
    ledger.given(CAPACITY, RESERVED, RELEASED).is_state(Ledger(capacity_mib=1000))


def test_what_does_not_fit_is_denied_by_an_event_with_the_numbers() -> None:
    other = ReserveMemory(node="n1", vm="b", generation=1, memory_mib=401)
    denied = MemoryDenied(node=N1, vm=B, generation=1, memory_mib=401, reserved_mib=600, capacity_mib=1000)
    ledger.given(CAPACITY, RESERVED).when(other).then(denied)
    ledger.given(CAPACITY, RESERVED).when(msgspec.structs.replace(other, memory_mib=400)).then(
        MemoryReserved(node=N1, vm=B, generation=1, memory_mib=400, reserved_mib=1000, capacity_mib=1000)
    )


def test_a_node_without_a_report_holds_nothing() -> None:
    denied = MemoryDenied(node=N1, vm=A, generation=2, memory_mib=600, reserved_mib=0, capacity_mib=0)
    ledger.given().when(RESERVE).then(denied)
    ledger.given().when(ReleaseMemory(node="n1", vm="a", generation=9)).nothing()


def test_a_newer_generation_takes_the_place_of_the_older() -> None:
    newer = msgspec.structs.replace(RESERVE, generation=3, memory_mib=900)
    taken = msgspec.structs.replace(RESERVED, generation=3, memory_mib=900, reserved_mib=900)
    ledger.given(CAPACITY, RESERVED).when(newer).then(taken).twice()
    ledger.given(CAPACITY, RESERVED, taken).when(RESERVE).nothing()
    ledger.given(CAPACITY, RESERVED, taken).when(ReleaseMemory(node="n1", vm="a", generation=2)).nothing()


def test_a_release_takes_older_generations_along() -> None:
    ledger.given(CAPACITY, RESERVED).when(ReleaseMemory(node="n1", vm="a", generation=7)).then(RELEASED)
    ledger.given(CAPACITY, RESERVED).when(ReleaseMemory(node="n1", vm="a", generation=1)).nothing()
    ledger.given(CAPACITY, RESERVED).when(ReleaseMemory(node="n1", vm="b", generation=7)).nothing()


def test_a_capacity_that_falls_takes_nothing_away_and_promises_nothing_new() -> None:
    less = CapacitySet(node=N1, capacity_mib=100)
    ledger.given(CAPACITY, RESERVED).when(SetCapacity(node="n1", capacity_mib=100)).then(less).twice()
    tiny = ReserveMemory(node="n1", vm="b", generation=1, memory_mib=1)
    (denied,) = ledger.given(CAPACITY, RESERVED, less).when(tiny).events
    assert isinstance(denied, MemoryDenied)


def test_the_policy_keeps_the_hosts_own_and_divides_what_is_shared() -> None:
    assert capacity_mib(16384, 1) == 16384 - 512 - 512
    assert capacity_mib(16384, 3) == (16384 - 1024) // 3
    assert capacity_mib(256, 1) == 0
    assert footprint_mib(256) == 256 + 96 + 4


def test_what_others_say_becomes_wishes_of_our_own() -> None:
    def wishes(event: object) -> list[object]:
        return list(react(event, HERE, None))

    assert wishes(REQUESTED) == [ReserveMemory(node="n1", vm="a", generation=1, memory_mib=356)]
    release = ReleaseMemory(node="n1", vm="a", generation=1)
    assert wishes(VmStartFailed(vm=A, node=N1, generation=1, sentence="s")) == [release]
    assert wishes(VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.CRASHED)) == [release]
    capacity = SetCapacity(node="n1", capacity_mib=4096 - 512 - 128)
    assert wishes(NodeReported(node=N1, capabilities=CAN, boot_id="b")) == [capacity]
    assert wishes(NodeRemoved(node=N1)) == [SetCapacity(node="n1", capacity_mib=0)]
    assert wishes(CAPACITY) == []


vms = st.sampled_from(["a", "b", "c"])
generations = st.integers(1, 6)
commands: st.SearchStrategy[LedgerCommand] = st.one_of(
    st.builds(SetCapacity, node=st.just("n1"), capacity_mib=st.integers(0, 2000)),
    st.builds(ReserveMemory, node=st.just("n1"), vm=vms, generation=generations, memory_mib=st.integers(1, 1000)),
    st.builds(ReleaseMemory, node=st.just("n1"), vm=vms, generation=generations),
)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
@settings(max_examples=50, deadline=None)
@given(story=st.lists(commands, max_size=30))
def test_no_story_promises_more_than_there_is(history: tuple[LedgerEvent, ...], story: list[LedgerCommand]) -> None:
    state: Account = LEDGER.fold(history)
    for command in story:
        before = state
        events = LEDGER.decide(command, state)
        state = LEDGER.fold(events, state)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=LEDGER.state) == state
        for event in events:
            if isinstance(event, MemoryReserved):
                assert isinstance(state, Ledger) and state.reserved_mib == event.reserved_mib <= state.capacity_mib
        if isinstance(before, Ledger) and isinstance(state, Ledger):
            for vm in before.reserved.keys() & state.reserved.keys():
                assert state.reserved[vm].generation >= before.reserved[vm].generation
        if not any(isinstance(e, MemoryDenied) for e in events):
            assert not Given(LEDGER, state).when(command).events, "said twice"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([e for h in HISTORIES.values() for e in h]), max_size=20))
def test_evolve_never_raises_whatever_the_order(events: list[LedgerEvent]) -> None:
    assert isinstance(LEDGER.fold(events), Unset | Ledger)
