"""Many VMs recovered by one order: who is, who is not and why, in which order, and what begins when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.testing import Spec
from proto.devices import VmPhase
from proto.io import Refusal
from proto.machine import Priority
from proto.waves import (
    HOME_S,
    STEPS_MAX,
    AdvanceWave,
    After,
    CancelWave,
    RecoverMany,
    WaveCancelRequested,
    WaveCandidate,
    WaveEnded,
    WaveKnown,
    WaveRequested,
    WaveSeen,
    WaveStepBegun,
    WaveStepDone,
    WaveStepFailed,
    WaveWish,
)
from services.io.waves.advancing import AGAIN_US, ASKED_MAX, RUNS_US_MAX
from services.io.waves.model import WAVE

NOW = 1_700_000_000_000_000
S = 1_000_000
wave = Spec(WAVE)
GONE = WaveCandidate(vm="a", named=True, kept=1, backup="b1-1", taken_us=NOW - S, mib=100, where="safe s1", reached=True)
"""it was deleted, and is named"""


def many(*those: WaveCandidate, runs: tuple[str, ...] = (), unknown: tuple[str, ...] = (), **wish: Any) -> RecoverMany:
    """As io's own view enriched it."""
    known = WaveKnown(candidates=those, runs=runs, unknown=unknown)
    return RecoverMany(wave="w", wish=WaveWish(**wish), known=known, now_us=NOW)


def vm(name: str, priority: Priority = Priority.NORMAL, mib: int = 100, **has: Any) -> WaveCandidate:
    return replace(GONE, vm=name, priority=priority, mib=mib, **has)


def asked(*those: WaveCandidate, **wish: Any) -> WaveRequested:
    outcome = wave.given().when(many(*those, **wish))
    assert outcome.refusal is None, outcome.refusal
    (event,) = outcome.events
    assert isinstance(event, WaveRequested)
    return event


def places(*those: WaveCandidate, **wish: Any) -> list[str]:
    return [step.vm for step in asked(*those, **wish).steps]


def refused(*those: WaveCandidate, reason: Refusal, **wish: Any) -> str:
    outcome = wave.given().when(many(*those, **wish)).refused(reason)
    assert outcome.refusal is not None and outcome.refusal.remedy
    return f"{outcome.refusal.sentence}; {outcome.refusal.remedy}"


def advance(at_us: int = NOW, *seen: WaveSeen) -> AdvanceWave:
    return AdvanceWave(wave="w", now_us=at_us, asked_us=NOW, seen=seen)


def ran(name: str, at_us: int, *, home: bool = False) -> WaveSeen:
    return WaveSeen(vm=name, recovery="r1-3", asked_us=NOW, ran_us=at_us, home=home)


def follow(*events: Any, tick: AdvanceWave) -> tuple[Any, ...]:
    outcome = wave.given(*events).when(tick)
    assert outcome.refusal is None
    return (*events, *outcome.events)


def begun(events: tuple[Any, ...]) -> list[str]:
    return [event.vm for event in events if isinstance(event, WaveStepBegun)]


# --- the order ------------------------------------------------------------------------------------------------------


def test_the_class_decides_then_the_smaller_then_the_name() -> None:
    those = (
        vm("big", mib=900), vm("b"), vm("a"), vm("spare", Priority.BEST_EFFORT, mib=1), vm("db", Priority.CRITICAL, mib=5000),
        vm("mail", Priority.IMPORTANT),
    )  # fmt: skip
    assert places(*those) == ["db", "mail", "a", "b", "big", "spare"]


def test_a_vm_comes_after_what_it_depends_on_and_raises_it_to_its_class() -> None:
    those = (vm("web", Priority.CRITICAL), vm("db"), vm("disk", Priority.BEST_EFFORT), vm("mail", Priority.IMPORTANT))
    after = (After(vm="web", first="db"), After(vm="db", first="disk"))
    event = asked(*those, after=after)
    assert [step.vm for step in event.steps] == ["disk", "db", "web", "mail"]
    assert event.steps[0].reason.startswith("best-effort, but web (critical) comes after it")
    assert "after db" in event.steps[2].reason and event.steps[2].after == ("db",)


def test_guards_say_what_comes_before_too_where_that_is_recovered_with_it() -> None:
    event = asked(vm("web", Priority.CRITICAL, after=("db", "elsewhere")), vm("db"))
    assert [(step.vm, step.after) for step in event.steps] == [("db", ()), ("web", ("db",))]


def test_a_circle_is_refused_and_named() -> None:
    after = (After(vm="a", first="b"), After(vm="b", first="c"), After(vm="c", first="a"), After(vm="d", first="a"))
    said = refused(vm("a"), vm("b"), vm("c"), vm("d"), after=after, reason=Refusal.CIRCLE)
    assert "a waits for b waits for c waits for a" in said and "d" not in said.split(":")[0]


def test_who_would_wait_for_a_vm_that_never_runs_is_left_out_and_so_is_who_comes_after_it() -> None:
    after = (After(vm="b", first="gone"), After(vm="c", first="b"), After(vm="d", first="runs"))
    event = asked(vm("b"), vm("c"), vm("d"), after=after, runs=("runs",))
    assert [step.vm for step in event.steps] == ["d"]
    assert [(one.vm, one.sentence) for one in event.left] == [
        ("b", "it comes after gone, which does not run and is not recovered"),
        ("c", "it comes after b, which does not run and is not recovered"),
    ]


@pytest.mark.parametrize(("has", "why", "well"), [
    ({"phase": VmPhase.RUNNING}, "it is running: stop it first", False),
    ({"phase": VmPhase.RUNNING, "named": False}, "it is running", True),
    ({"phase": VmPhase.STOPPED, "named": False, "well": True}, "its disks are there", True),
    ({"named": False}, "it was deleted: name it", True),
    ({"kept": 0, "backup": ""}, "it has no backup", False),
    ({"kept": 3, "backup": ""}, "none of its 3 backups is sound and of that time", False),
    ({"reached": False}, "no node reaches the pool safe s1", False),
    ({"image": "tiny"}, "the image tiny, which is not there", False),
    ({"busy": "the wave v recovers it already"}, "the wave v recovers it already", False),
])  # fmt: skip
def test_who_is_left_out_is_told_why(has: dict[str, Any], why: str, well: bool) -> None:
    event = asked(vm("z"), vm("x", **has))
    assert [step.vm for step in event.steps] == ["z"]
    (left,) = event.left
    assert left.vm == "x" and why in left.sentence and left.well is well


def test_what_could_not_be_recovered_is_told_before_what_needs_nothing() -> None:
    event = asked(vm("z"), vm("a", phase=VmPhase.RUNNING, named=False), vm("b", kept=0, backup=""))
    assert [one.vm for one in event.left] == ["b", "a"]


STOPPED: dict[str, Any] = {"phase": VmPhase.STOPPED, "named": False}


def test_nothing_is_thrown_away_unless_the_vms_are_named_or_their_number_is_right() -> None:
    those = (vm("a", **STOPPED), vm("b", **STOPPED), vm("c"))
    too_few: tuple[dict[str, Any], ...] = ({}, {"lose": ("a",)}, {"lose_count": 1}, {"lose_count": 3})
    for wish in too_few:
        said = refused(*those, reason=Refusal.NOT_CONFIRMED, **wish)
        assert "what 2 VMs have on their disks would be thrown away: a, b; " in said and "--lose 2" in said
    enough: tuple[dict[str, Any], ...] = ({"lose": ("a", "b")}, {"lose": ("a", "b", "c")}, {"lose_count": 2})
    for wish in enough:
        assert {step.vm: step.lose for step in asked(*those, **wish).steps} == {"a": True, "b": True, "c": False}


def test_a_wave_of_nothing_of_too_many_or_of_strangers_is_refused() -> None:
    assert "a: it has no backup" in refused(vm("a", kept=0), reason=Refusal.NOTHING_TO_RECOVER)
    refused(reason=Refusal.NOTHING_TO_RECOVER)
    refused(*(vm(f"v{n}") for n in range(STEPS_MAX + 1)), reason=Refusal.TOO_MANY)
    assert "webb" in refused(vm("a"), unknown=("webb",), reason=Refusal.NOT_DEFINED)


def test_a_name_is_used_once() -> None:
    event = asked(vm("a"))
    wave.given(event).when(many(vm("b"))).refused(Refusal.WAVE_KNOWN)
    wave.given().when(CancelWave(wave="w")).refused(Refusal.WAVE_UNKNOWN)


# --- what begins when -----------------------------------------------------------------------------------------------


def test_no_more_begin_than_may_at_once_and_the_next_begins_as_one_runs() -> None:
    events = follow(asked(vm("a"), vm("b"), vm("c"), at_once=2), tick=advance())
    assert begun(events) == ["a", "b"]
    events = follow(*events, tick=advance(NOW + S, WaveSeen(vm="a", recovery="r1-3", asked_us=NOW)))
    assert begun(events) == ["a", "b"]
    events = follow(*events, tick=advance(NOW + 2 * S, ran("a", NOW + 1_500_000)))
    assert begun(events) == ["a", "b", "c"]
    done = next(event for event in events if isinstance(event, WaveStepDone))
    assert (done.vm, done.first_ms, done.recovery) == ("a", 1500, "r1-3")


def test_a_step_waits_for_what_it_comes_after_and_others_go_before_it_meanwhile() -> None:
    those = (vm("db", Priority.CRITICAL), vm("web", Priority.CRITICAL), vm("z"))
    event = asked(*those, after=(After(vm="web", first="db"),), at_once=2)
    events = follow(event, tick=advance())
    assert begun(events) == ["db", "z"]
    assert begun(follow(*events, tick=advance(NOW + S, ran("db", NOW + S)))) == ["db", "z", "web"]


def test_who_comes_after_one_that_failed_fails_with_it_near_and_far() -> None:
    after = (After(vm="b", first="a"), After(vm="c", first="b"))
    events = follow(asked(vm("a"), vm("b"), vm("c"), vm("d"), after=after), tick=advance())
    events = follow(*events, tick=advance(NOW + S, WaveSeen(vm="a", recovery="r1-3", failed="no node fits"), ran("d", NOW + S)))
    failed = {event.vm: event.sentence for event in events if isinstance(event, WaveStepFailed)}
    assert failed["a"] == "no node fits" and "it comes after a" in failed["b"] and "it comes after b" in failed["c"]
    end = events[-1]
    assert isinstance(end, WaveEnded) and (end.recovered, end.failed, end.unbegun) == (1, 3, 0)


def test_a_recovery_that_is_not_in_the_log_is_asked_for_again_and_then_taken_for_failed() -> None:
    events = follow(asked(vm("a")), tick=advance())
    for n in range(1, ASKED_MAX):
        events = follow(*events, tick=advance(NOW + n * AGAIN_US - 1))
        assert len(begun(events)) == n
        events = follow(*events, tick=advance(NOW + n * AGAIN_US))
    assert begun(events) == ["a"] * ASKED_MAX
    events = follow(*events, tick=advance(NOW + ASKED_MAX * AGAIN_US))
    assert "asked for 3 times" in events[-2].sentence and isinstance(events[-1], WaveEnded)


def test_it_is_not_asked_for_again_where_it_may_not_be_any_more() -> None:
    events = follow(asked(vm("a")), tick=advance())
    events = follow(*events, tick=advance(NOW + AGAIN_US, WaveSeen(vm="a", barred="it is running by now")))
    assert begun(events) == ["a"] and events[-2].sentence == "it is running by now"


def test_what_may_not_begin_any_more_does_not() -> None:
    events = follow(asked(vm("a"), vm("b")), tick=advance(NOW, WaveSeen(vm="a", barred="it was started since the order")))
    assert begun(events) == ["b"]
    assert [e.sentence for e in events if isinstance(e, WaveStepFailed)] == ["it was started since the order"]


def test_one_that_does_not_run_in_time_holds_nobody_up_any_more() -> None:
    events = follow(asked(vm("a"), vm("b"), at_once=1), tick=advance())
    there = WaveSeen(vm="a", recovery="r1-3", asked_us=NOW)
    events = follow(*events, tick=advance(NOW + RUNS_US_MAX - 1, there))
    assert begun(events) == ["a"]
    events = follow(*events, tick=advance(NOW + RUNS_US_MAX, there))
    assert begun(events) == ["a", "b"] and "did not run within 180 s" in next(
        event.sentence for event in events if isinstance(event, WaveStepFailed)
    )


def test_so_many_come_home_at_once() -> None:
    events = follow(asked(vm("a"), vm("b"), vm("c"), copying_max=2), tick=advance())
    events = follow(*events, tick=advance(NOW + S, ran("a", NOW + S), ran("b", NOW + S)))
    assert begun(events) == ["a", "b"]
    assert begun(follow(*events, tick=advance(NOW + 2 * S, ran("a", NOW + S, home=True), ran("b", NOW + S)))) == ["a", "b", "c"]


def test_a_pool_is_asked_for_no_more_than_it_gives_in_time_and_a_large_one_is_not_overtaken() -> None:
    big = 9 * HOME_S
    those = (vm("a", Priority.CRITICAL, mib=big), vm("b", mib=2 * HOME_S), vm("c", Priority.BEST_EFFORT, mib=HOME_S))
    event = asked(*those, vm("d", Priority.BEST_EFFORT, mib=big, where="other s2"), bandwidth_mibps=10)
    events = follow(event, tick=advance())
    assert begun(events) == ["a", "d"], "b does not fit beside a; c would, and comes after it"
    assert begun(follow(*events, tick=advance(NOW + S, ran("a", NOW + S, home=True)))) == ["a", "d", "b", "c"]


def test_one_that_is_larger_than_all_that_a_pool_gives_in_time_goes_alone() -> None:
    events = follow(asked(vm("a", mib=99 * HOME_S), vm("b", mib=99 * HOME_S), bandwidth_mibps=1), tick=advance())
    assert begun(events) == ["a"]
    assert begun(follow(*events, tick=advance(NOW + S, ran("a", NOW + S, home=True)))) == ["a", "b"]


def test_cancelled_it_begins_nothing_more_and_ends_once_what_was_begun_runs() -> None:
    events = follow(asked(vm("a"), vm("b"), at_once=1), tick=advance())
    events += wave.given(*events).when(CancelWave(wave="w")).then(WaveCancelRequested(wave="w")).twice().events
    events = follow(*events, tick=advance(NOW + S))
    assert not isinstance(events[-1], WaveEnded)
    events = follow(*events, tick=advance(NOW + 2 * S, ran("a", NOW + 2 * S)))
    assert begun(events) == ["a"] and isinstance(events[-1], WaveEnded) and events[-1].unbegun == 1


def test_it_ends_with_its_figures_and_nothing_changes_it_afterwards() -> None:
    events = follow(asked(vm("a"), vm("b"), vm("c")), tick=advance())
    seen = (ran("a", NOW + S), ran("b", NOW + 4 * S), ran("c", NOW + 2 * S))
    events = follow(*events, tick=advance(NOW + 9 * S, *seen))
    end = events[-1]
    assert end == WaveEnded(
        wave="w", recovered=3, failed=0, at_us=NOW + 9 * S, first_ms_p50=2000, first_ms_max=4000, took_s=4.0
    )
    assert follow(*events, tick=advance(NOW + 20 * S, *seen)) == events
    assert wave.given(*events).when(CancelWave(wave="w")).events == ()
