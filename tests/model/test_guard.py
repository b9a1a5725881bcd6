"""The guard of one VM: given these events, when this command, then those."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.messages import NodeId, VmId
from libs.common.testing import Given, Spec
from proto.guard import (
    Cause,
    Guard,
    GuardCommand,
    GuardEnded,
    GuardEvent,
    GuardSet,
    Mode,
    NoteHand,
    NoteRestart,
    OweVm,
    Refusal,
    ReleaseVm,
    RestartWanted,
    SetGuard,
    Then,
    VmInHand,
    VmOwed,
    VmRecovered,
    VmUnplaced,
    WantRestart,
)
from services.ha.guard import DENIED_US, FAILED_AGAIN_US, GUARD, PAUSE_US_MAX, Watch, pause

A, N1, N2 = VmId("a"), NodeId("n1"), NodeId("n2")
S = 1_000_000
vm = Spec(GUARD)
LOCAL = "it has a disk in the pool ssd, which one node alone reaches"


def owe(cause: Cause = Cause.NODE_LOST, generation: int = 1, at_us: int = 0, **more: Any) -> OweVm:
    return OweVm(vm="a", cause=cause, node=more.pop("node", "n1"), generation=generation, at_us=at_us, sentence="so it was", **more)


def turn(now_us: int = 0, **more: Any) -> WantRestart:
    return WantRestart(vm="a", now_us=now_us, **({"turn": True} | more))


OWED = VmOwed(vm=A, cause=Cause.NODE_LOST, node=N1, generation=1, at_us=0, sentence="so it was")
WANTED = RestartWanted(vm=A, attempt=1, at_us=0, failover=True)
RUNS = NoteRestart(vm="a", generation=2, node="n2", running=True, at_us=7 * S)
DENIED = NoteRestart(vm="a", attempt=1, sentence="no node fits", remedy="add one", at_us=S)
UNPLACED = VmUnplaced(vm=A, sentence="no node fits", remedy="add one", try_us=S + DENIED_US)


def guarded(**more: Any) -> GuardSet:
    return GuardSet(vm=A, guard=Guard(**more))


# --- a node was lost --------------------------------------------------------------------------------------------------


def test_all_goes_well() -> None:
    vm.given().when(owe()).then(OWED).twice()
    vm.given(OWED).when(turn(away=True)).then(WANTED).twice()
    vm.given(OWED, WANTED).when(RUNS).then(VmRecovered(vm=A, node=N2, generation=2, after_ms=7000)).twice()
    done = vm.given(OWED, WANTED, VmRecovered(vm=A, node=N2, generation=2, after_ms=7000))
    done.when(owe()).nothing()
    done.when(owe(generation=2, node="n2")).then(msgspec.structs.replace(OWED, node=N2, generation=2))


def test_nothing_is_asked_before_its_turn() -> None:
    vm.given(OWED).when(turn(turn=False)).nothing()
    vm.given().when(turn()).nothing()
    vm.given(OWED, WANTED).when(turn(9 * S)).nothing()


def test_a_start_that_came_to_nothing_is_tried_again_later_or_when_something_changed() -> None:
    vm.given(OWED, WANTED).when(DENIED).then(UNPLACED).twice()
    waits = vm.given(OWED, WANTED, UNPLACED)
    waits.when(turn(2 * S)).nothing()
    waits.when(turn(2 * S, changed=True)).then(msgspec.structs.replace(WANTED, attempt=2, at_us=2 * S))
    waits.when(turn(S + DENIED_US)).then(msgspec.structs.replace(WANTED, attempt=2, at_us=S + DENIED_US))
    second = (OWED, WANTED, UNPLACED, msgspec.structs.replace(WANTED, attempt=2))
    vm.given(*second).when(DENIED).nothing()  # an answer to the attempt before
    (again,) = vm.given(*second).when(msgspec.structs.replace(DENIED, attempt=2)).events
    assert isinstance(again, VmUnplaced) and again.try_us == S + 2 * DENIED_US


def test_a_second_loss_on_the_way_is_owed_as_before() -> None:
    again = owe(generation=2, node="n2", at_us=5 * S)
    events = vm.given(OWED, WANTED).when(again).events
    state = GUARD.fold((OWED, WANTED, *events))
    assert state.owed is not None and not state.owed.asked
    assert (state.owed.node, state.owed.since_us, state.owed.attempt) == (N2, 0, 1)
    vm.given(OWED, WANTED, *events).when(RUNS).nothing()  # generation 2 is known to have ended


def test_disks_of_one_node_keep_it_there_until_that_is_back() -> None:
    (owed,) = vm.given().when(owe(why_not=LOCAL)).events
    assert isinstance(owed, VmOwed) and LOCAL in owed.sentence and "once that is back" in owed.sentence
    vm.given(owed).when(turn(away=True, why_not=LOCAL)).nothing()
    vm.given(owed).when(turn(why_not=LOCAL)).then(msgspec.structs.replace(WANTED, node="n1", failover=False))
    vm.given(owed).when(turn(away=True)).then(WANTED)  # its disks were found elsewhere, too


def test_a_guard_in_place_keeps_it_there_though_others_reach_its_disks() -> None:
    (owed,) = vm.given(guarded(mode=Mode.IN_PLACE)).when(owe()).events
    vm.given(guarded(mode=Mode.IN_PLACE), owed).when(turn(away=True)).nothing()
    vm.given(guarded(mode=Mode.IN_PLACE), owed).when(turn()).then(msgspec.structs.replace(WANTED, node="n1", failover=False))


def test_a_guard_that_is_off_does_nothing() -> None:
    for cause in Cause:
        vm.given(guarded(mode=Mode.OFF)).when(owe(cause)).nothing()


@pytest.mark.parametrize("history", [(OWED,), (OWED, WANTED), (OWED, WANTED, UNPLACED)])
def test_what_somebody_stops_is_let_go(history: tuple[GuardEvent, ...]) -> None:
    end = GuardEnded(vm=A, sentence="somebody wants it stopped")
    vm.given(*history).when(ReleaseVm(vm="a", sentence="somebody wants it stopped")).then(end).twice()
    for later in (turn(99 * S, changed=True), RUNS, DENIED):
        vm.given(*history, end).when(later).nothing()
    vm.given(*history, end).when(owe()).nothing()


def test_a_deleted_vm_leaves_no_guard_to_the_next_of_its_name() -> None:
    gone = ReleaseVm(vm="a", sentence="it was deleted", deleted=True)
    vm.given(guarded(mode=Mode.OFF)).when(gone).then(GuardSet(vm=A, guard=Guard())).twice()
    vm.given().when(gone).nothing()


# --- it failed by itself ----------------------------------------------------------------------------------------------


def failed(times: int, *first: GuardEvent, every_us: int = 60 * S, then: bool = True) -> tuple[tuple[GuardEvent, ...], Any]:
    """It fails so often, and runs again after each but the last: the history before the last, and what that led to."""
    events: tuple[GuardEvent, ...] = first
    for n in range(1, times + 1):
        found = vm.given(*events).when(owe(Cause.DIED, 2 * n, n * every_us)).events
        if n == times:
            return events, found
        ran = VmRecovered(vm=A, node=N1, generation=2 * n + 1, after_ms=1)
        events = (*events, *found, RestartWanted(vm=A, attempt=1, at_us=0, node="n1"), ran)
    raise AssertionError("at least once")


def test_it_is_started_where_it_was_after_a_pause_that_doubles() -> None:
    for n, pause_us in ((1, 0), (2, FAILED_AGAIN_US), (3, 2 * FAILED_AGAIN_US)):
        events, (owed,) = failed(n)
        assert isinstance(owed, VmOwed) and not owed.elsewhere
        assert (owed.failures, owed.try_us) == (n, n * 60 * S + pause_us)
        state = vm.given(*events, owed)
        state.when(turn(owed.try_us - 1)).nothing() if pause_us else None
        (wanted,) = state.when(turn(owed.try_us)).events
        assert isinstance(wanted, RestartWanted) and (wanted.node, wanted.failover) == ("n1", False)
    assert pause(1, 40) <= PAUSE_US_MAX and pause(FAILED_AGAIN_US, 99) == PAUSE_US_MAX


def test_one_that_fails_too_often_goes_elsewhere_and_is_given_up_when_it_fails_there_too() -> None:
    events, (owed,) = failed(4)
    assert isinstance(owed, VmOwed) and owed.elsewhere and "4 times" in owed.sentence
    (wanted,) = vm.given(*events, owed).when(turn(owed.try_us)).events
    assert isinstance(wanted, RestartWanted) and (wanted.node, wanted.not_node) == ("", "n1")
    after = (*events, owed, wanted, VmRecovered(vm=A, node=N2, generation=99, after_ms=1))
    at_us = owed.at_us
    for n in range(1, 5):
        found = vm.given(*after).when(owe(Cause.HANG, 100 + 2 * n, at_us + n * 60 * S, node="n2")).events
        after = (*after, *found)
        if n < 4:
            after = (*after, wanted, VmRecovered(vm=A, node=N2, generation=101 + 2 * n, after_ms=1))
    (last,) = found
    assert isinstance(last, GuardEnded) and last.given_up and "elsewhere too" in last.sentence
    state = GUARD.fold(after)
    assert state.owed is None and state.failures == ()
    vm.given(*after).when(owe(Cause.HANG, 108, at_us, node="n2")).nothing()
    (anew,) = vm.given(*after).when(owe(Cause.DIED, 200, at_us + 400 * S)).events  # somebody started it by hand
    assert isinstance(anew, VmOwed) and anew.failures == 1


def test_a_guard_may_say_that_it_is_stopped_then() -> None:
    _, (ended,) = failed(4, guarded(then=Then.STOP))
    assert isinstance(ended, GuardEnded) and ended.given_up
    _, (ended,) = failed(1, guarded(failures_max=0, then=Then.STOP))
    assert isinstance(ended, GuardEnded) and ended.given_up
    for history in ((guarded(mode=Mode.IN_PLACE),),):
        _, (ended,) = failed(4, *history)
        assert isinstance(ended, GuardEnded) and ended.given_up


def test_failures_are_forgotten_after_their_window() -> None:
    _, (owed,) = failed(5, every_us=1000 * S)
    assert isinstance(owed, VmOwed) and owed.failures == 2 and not owed.elsewhere


def test_a_lost_node_is_not_its_failure() -> None:
    events, _ = failed(3)
    (lost,) = vm.given(*events).when(owe(Cause.NODE_LOST, 50, 200 * S)).events
    assert isinstance(lost, VmOwed) and lost.try_us == 200 * S


def test_where_it_failed_is_given_up_when_its_node_is_lost_or_cannot_have_it() -> None:
    _, (owed,) = failed(1)
    (wanted,) = vm.given(owed).when(turn(owed.try_us, away=True)).events
    assert isinstance(wanted, RestartWanted) and wanted.node == "" and wanted.failover
    vm.given(owed).when(turn(owed.try_us, away=True, why_not=LOCAL)).nothing()
    here = RestartWanted(vm=A, attempt=1, at_us=0, node="n1")
    (unplaced,) = vm.given(owed, here).when(DENIED).events
    assert isinstance(unplaced, VmUnplaced)
    (wanted,) = vm.given(owed, here, unplaced).when(turn(unplaced.try_us)).events
    assert isinstance(wanted, RestartWanted) and wanted.node == ""
    (wanted,) = vm.given(owed, here, unplaced).when(turn(unplaced.try_us, why_not=LOCAL)).events
    assert isinstance(wanted, RestartWanted) and wanted.node == "n1"


# --- what is set ------------------------------------------------------------------------------------------------------


def put(**more: Any) -> SetGuard:
    return SetGuard(vm="a", **({"defined": True} | more))


def test_only_what_is_named_changes() -> None:
    vm.given().when(put(mode=Mode.OFF)).then(guarded(mode=Mode.OFF)).twice()
    vm.given(guarded(mode=Mode.OFF)).when(put(after=("db",))).then(guarded(mode=Mode.OFF, after=("db",))).twice()
    vm.given().when(put()).nothing()


def test_a_vm_with_a_disk_of_one_node_is_not_promised_to_start_elsewhere() -> None:
    vm.given().when(put(mode=Mode.RESTART, why_not=LOCAL)).refused(Refusal.LOCAL_DISK)
    refusal = vm.given().when(put(mode=Mode.RESTART, why_not=LOCAL)).refusal
    assert refusal is not None and LOCAL in refusal.sentence and "in-place" in refusal.remedy
    for mode in (Mode.AUTO, Mode.IN_PLACE, Mode.OFF):
        vm.given(guarded(hangs=False)).when(put(mode=mode, why_not=LOCAL))


def test_nonsense_is_refused() -> None:
    vm.given().when(put(defined=False)).refused(Refusal.NOT_DEFINED)
    vm.given().when(put(after=("x",), unknown=("x",))).refused(Refusal.NOT_DEFINED)
    vm.given().when(put(after=("b",), circle=("a", "b"))).refused(Refusal.CIRCLE)


def test_switched_off_it_lets_go() -> None:
    off = GuardEnded(vm=A, sentence="its guard was switched off")
    vm.given(OWED).when(put(mode=Mode.OFF)).then(guarded(mode=Mode.OFF), off).twice()


# --- whatever happens -------------------------------------------------------------------------------------------------

STEPS: tuple[GuardCommand, ...] = (
    *(owe(cause, g) for cause in Cause for g in (1, 2, 3, 5)),
    turn(), turn(400 * S), turn(away=True), turn(turn=False), turn(changed=True, why_not=LOCAL),
    RUNS, msgspec.structs.replace(RUNS, generation=4), DENIED, msgspec.structs.replace(DENIED, attempt=2),
    ReleaseVm(vm="a", sentence="stopped"), put(mode=Mode.OFF), put(mode=Mode.AUTO), put(mode=Mode.IN_PLACE),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=20))
def test_one_wish_one_answer_and_nothing_after_a_stop(steps: list[GuardCommand]) -> None:
    """At most one wish is open; what is let go is not asked for; a generation is owed once; states survive the wire."""
    state, owed, open = Watch(), set[int](), False
    for step in steps:
        outcome = Given(GUARD, state).when(step)
        for event in outcome.events:
            match event:
                case VmOwed():
                    assert event.generation not in owed and state.guard.mode is not Mode.OFF
                    owed.add(event.generation)
                    open = False
                case RestartWanted():
                    assert not open and state.owed is not None
                    open = True
                case VmUnplaced() | VmRecovered() | GuardEnded():
                    open = False
        state = GUARD.fold(outcome.events, outcome.before)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Watch) == state
        again = Given(GUARD, state).when(step)
        assert not again.events or isinstance(step, WantRestart | NoteRestart), f"{step} twice: {again.events}"


# --- what somebody starts by hand -------------------------------------------------------------------------------------

HAND = NoteHand(vm="a", node="n2")
IN_HAND = VmInHand(vm=A, node=N2)
BY_HAND = NoteRestart(vm="a", by_hand=True, sentence="its disk is held", at_us=S)
HELD = VmUnplaced(vm=A, sentence="its disk is held", try_us=S + DENIED_US)


def test_what_somebody_starts_is_waited_for_and_owed_on_where_that_fails() -> None:
    vm.given(OWED).when(HAND).then(IN_HAND).twice()
    vm.given(OWED, IN_HAND).when(turn(900 * S)).nothing()
    vm.given(OWED, IN_HAND).when(BY_HAND).then(HELD).twice()
    vm.given(OWED, IN_HAND, HELD).when(turn(S)).nothing()
    (again,) = vm.given(OWED, IN_HAND, HELD).when(turn(900 * S)).events
    assert isinstance(again, RestartWanted) and again.attempt == 1
    vm.given(OWED, IN_HAND, HELD).when(HAND).then(IN_HAND)
    (runs,) = vm.given(OWED, IN_HAND).when(RUNS).events
    assert isinstance(runs, VmRecovered)
    vm.given().when(HAND).nothing()


def test_a_failed_start_is_of_whoever_made_it() -> None:
    vm.given(OWED, WANTED).when(BY_HAND).nothing()
    vm.given(OWED, WANTED, IN_HAND).when(DENIED).nothing()
    vm.given(OWED, WANTED, IN_HAND).when(BY_HAND).then(HELD)
