"""How a recovery goes, as it is decided: forecasts, sparingly; a promise that would be missed, before it is; the grade."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from proto.backups import BackupTaken, Usual
from proto.recovery import (
    NOTES_MAX,
    EndKind,
    EndRecovery,
    Grade,
    Limit,
    NoteRecovery,
    RecoveryAtRisk,
    RecoveryEnded,
    RecoveryNoted,
    RecoveryRequested,
    RecoverySeen,
)
from services.io.backups.model import BACKUPS
from tests.model.backup_story import RECOVER, THREE, after

S = 1_000_000
T0 = 1_800_000_000 * S
REQUESTED = after(*THREE, command=RECOVER)[0]
HELD = (*THREE, REQUESTED)
RUNS = RecoverySeen(ordered_us=T0, started_us=T0 + 2 * S)
COPIES = replace(RUNS, copying=True, percent=2.0, mibps=100.0, left_s=60.0, write_us=300, normal_us=250, worst_times=1.2)
MET = Grade(first_ms=2000, home_s=70.0, worst_times=0.0, met=True)


def note(at_s: float, seen: RecoverySeen = COPIES, **more: Any) -> NoteRecovery:
    return NoteRecovery(vm="a", recovery="r1-7", now_us=T0 + round(at_s * S), seen=replace(seen, **more))


def told(*notes: NoteRecovery, begin: tuple[Any, ...] = HELD) -> list[Any]:
    """What is written of all of them, each after the one before."""
    events = begin
    for one in notes:
        events += after(*events, command=one)
    return list(events[len(begin) :])


def risks(*notes: NoteRecovery) -> list[Limit]:
    return [event.limit for event in told(*notes) if isinstance(event, RecoveryAtRisk)]


def noted(*notes: NoteRecovery) -> list[float]:
    return [event.percent for event in told(*notes) if isinstance(event, RecoveryNoted)]


def test_the_first_forecast_is_written_with_all_that_is_known() -> None:
    (event,) = told(note(8))
    assert event == RecoveryNoted(
        vm=event.vm, target=event.target, recovery="r1-7", at_us=T0 + 8 * S, percent=2.0, mibps=100.0, forecast_us=T0 + 68 * S,
        write_us=300, normal_us=250, worst_times=1.2,
    )  # fmt: skip
    assert told(note(8, left_s=0.0), note(9, copying=False)) == [], "nothing is forecast: there is nothing to write"


def test_as_long_as_it_goes_as_forecast_only_quarters_are_written() -> None:
    every = [note(8 + n, percent=2 + n * 1.5, left_s=60.0 - n) for n in range(61)]
    assert noted(*every) == [2.0, 26.0, 50.0, 75.5], "after the first: at 25, 50, 75 percent"


def test_a_forecast_that_moved_by_more_than_half_of_what_was_left_is_corrected() -> None:
    assert noted(note(8), note(9, left_s=88.0)) == [2.0], "by 29 of 60 s: not yet"
    assert noted(note(8), note(9, left_s=91.0, percent=3.0)) == [2.0, 3.0], "by 32 of 60 s: later"
    assert noted(note(8), note(9, left_s=28.0, percent=3.0)) == [2.0, 3.0], "by 31 of 60 s: sooner"
    assert noted(note(8, left_s=6.0), note(9, left_s=14.0)) == [2.0], "by 9 s: nobody cares"


def test_however_it_wavers_it_is_written_a_bounded_number_of_times() -> None:
    wavers = [note(8 + n, left_s=60.0 if n % 2 else 600.0, percent=n / 10) for n in range(200)]
    quarters = [note(300 + n, percent=25.0 * n, left_s=9.0) for n in range(1, 5)]
    written = noted(*wavers, *quarters)
    assert len(written) <= NOTES_MAX and written[-4:] == [25.0, 50.0, 75.0, 100.0], "room is left for quarters"


def test_one_that_does_not_run_is_told_a_minute_before_it_is_too_late() -> None:
    waits = RecoverySeen(ordered_us=T0)
    assert told(note(119, waits)) == []
    (event,) = told(note(120, waits), note(121, waits), note(400, waits))
    assert (event.limit, event.due_us, event.forecast_us) == (Limit.FIRST, T0 + 180 * S, 0)
    assert event.sentence == "b does not run 120 s after the order, and is promised to within 180 s"
    assert risks(note(120, waits, started_us=T0 + 119 * S)) == []


def test_one_whose_start_failed_is_told_at_once() -> None:
    (event,) = told(note(3, RecoverySeen(ordered_us=T0, failed="no node has 256 MiB left")))
    assert event.limit is Limit.FIRST and "no node has 256 MiB left" in event.sentence
    assert risks(note(3, RUNS, failed="it was restarted, and failed")) == [], "it ran by then"


def test_what_is_not_to_be_started_is_never_late_to_run() -> None:
    begin = (*THREE, after(*THREE, command=replace(RECOVER, start=False))[0])
    assert told(note(800, RecoverySeen(ordered_us=T0)), begin=begin) == []
    (event,) = told(note(800, RUNS), begin=begin)
    assert event.limit is Limit.NORMAL, "once it was started it counts"


def test_a_forecast_beyond_the_limit_is_told_as_soon_as_it_is_made() -> None:
    assert risks(note(8, left_s=892.0)) == []
    written, risk = told(note(8, left_s=893.0), note(9, left_s=893.0))
    assert isinstance(written, RecoveryNoted)
    assert (risk.limit, risk.due_us, risk.forecast_us) == (Limit.NORMAL, T0 + 900 * S, T0 + 901 * S)
    assert "100 MiB/s" in risk.sentence
    first, again, _ = told(note(8), note(30, left_s=2000.0))
    assert (first.forecast_us, again.forecast_us) == (T0 + 68 * S, T0 + 2030 * S), "and it is in the curve"


def test_near_the_limit_slow_writes_and_silence_count() -> None:
    slow = replace(COPIES, write_us=376, percent=90.0)
    assert risks(note(749, slow)) == [] and risks(note(750, slow)) == [Limit.NORMAL]
    assert risks(note(750, slow, write_us=375)) == [], "not slower than half as much again"
    assert risks(note(750, slow, normal_us=0)) == [], "nobody knows what is normal"
    assert risks(note(749, RUNS)) == [] and risks(note(750, RUNS)) == [Limit.NORMAL], "nobody tells how far it is"
    assert risks(note(760, slow, home_us=T0 + 759 * S)) == [], "it is home"


def test_a_clock_that_was_set_back_writes_nothing_and_takes_nothing_back() -> None:
    assert told(note(-1), note(-4000, RecoverySeen(ordered_us=T0))) == []
    assert noted(note(20), note(10, percent=60.0, left_s=900.0)) == [2.0]
    assert noted(note(20), note(10, percent=60.0), note(21, percent=61.0)) == [2.0, 61.0], "it goes on once it has caught up"
    assert told(note(5, ordered_us=0)) == [], "nobody knows when it was ordered"


def test_of_what_is_not_held_nothing_is_written() -> None:
    assert after(*HELD, command=replace(note(8), recovery="r1-99")) == ()
    over = (*HELD, *after(*HELD, command=EndRecovery(vm="a", recovery="r1-7", end=EndKind.GONE)))
    assert after(*over, command=note(8)) == ()


def ended(*notes: NoteRecovery, end: EndKind = EndKind.INDEPENDENT, **seen: Any) -> Grade | None:
    events = (*HELD, *told(*notes))
    home = replace(RUNS, home_us=T0 + 70 * S)
    (event,) = after(*events, command=EndRecovery(vm="a", recovery="r1-7", end=end, seen=replace(home, **seen)))
    assert isinstance(event, RecoveryEnded) and BACKUPS.fold((*events, event)).holds == ()
    return event.grade


def test_it_is_graded_against_what_is_promised_and_what_was_forecast_first() -> None:
    corrected = note(9, left_s=150.0, worst_times=1.9)
    assert ended(note(8), corrected, worst_times=1.1) == replace(MET, worst_times=1.9, forecast_us=T0 + 68 * S, off_s=2.0)
    assert ended() == MET, "it was home before there was anything to forecast"


@pytest.mark.parametrize(
    ("seen", "met"),
    [
        ({"started_us": T0 + 180 * S}, True), ({"started_us": T0 + 181 * S}, False), ({"started_us": 0}, False),
        ({"home_us": T0 + 900 * S}, True), ({"home_us": T0 + 901 * S}, False),
    ],
)  # fmt: skip
def test_both_promises_have_to_be_kept(seen: dict[str, Any], met: bool) -> None:
    grade = ended(**seen)
    assert grade is not None and grade.met is met


def test_what_did_not_come_to_that_has_no_grade() -> None:
    assert ended(end=EndKind.GONE) is None and ended(ordered_us=0) is None and ended(home_us=0) is None
    back = ended(home_us=T0 - 5 * S, started_us=T0 - 6 * S)
    assert back is not None and (back.home_s, back.first_ms) == (0.0, 0), "a clock that was set back"


def test_what_was_normal_comes_along_from_the_backup() -> None:
    *before, taken = THREE
    assert isinstance(taken, BackupTaken)
    usual = Usual(write_us=250, read_us=90)
    (event,) = after(*before, replace(taken, done=replace(taken.done, normal=usual)), command=RECOVER)
    assert isinstance(event, RecoveryRequested) and event.normal == usual
