"""Waves as the gateway shows them: how far each step is, who was left out, and when all will run by what the first ones took."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import Meta, Recorded, encode, tag_of
from proto.machine import Priority
from proto.waves import (
    WaveCancelRequested,
    WaveEnded,
    WaveLeft,
    WaveRequested,
    WaveStep,
    WaveStepBegun,
    WaveStepDone,
    WaveStepFailed,
)
from services.gateway.views.waves import KEPT_MAX, Forecast, Wave, WavesView, forecast
from services.gateway.why.waves import of_waves

T0, S = 1_700_000_000_000_000, 1_000_000
STEP = WaveStep(vm="a", backup="b1-1", taken_us=T0 - S, priority=Priority.NORMAL, mib=9, where="safe s1", reason="normal")
META = Meta("k1", "", "task-1", "user:ann", T0, "", "default", "ann")


def asked(*vms: str, wave: str = "w", at_once: int = 2, **after: tuple[str, ...]) -> WaveRequested:
    steps = tuple(replace(STEP, vm=vm, after=after.get(vm, ())) for vm in vms)
    return WaveRequested(
        wave=wave, steps=steps, at_us=T0, at_once=at_once, left=(WaveLeft(vm="z", sentence="it has no backup"),), left_more=3
    )


def begun(vm: str, attempt: int = 1) -> WaveStepBegun:
    return WaveStepBegun(wave="w", vm=vm, backup="b1-1", attempt=attempt, at_us=T0, place=1, of=9, reason="normal")


def ran(vm: str, at_us: int, first_ms: int = 2000) -> WaveStepDone:
    return WaveStepDone(wave="w", vm=vm, recovery="r1-3", first_ms=first_ms, at_us=at_us)


def told(*events: tuple[int, Any], view: WavesView | None = None) -> WavesView:
    """Each at so many seconds after T0, by the log's clock."""
    view = view or WavesView()
    for position, (at_s, event) in enumerate(events, 1):
        view.apply(Recorded(position, "wave-w", 1, tag_of(type(event)), 1, T0 + at_s * S, encode(event), encode(META)), event)
    return view


def one(*events: tuple[int, Any]) -> Wave:
    return told(*events).all["w"]


def test_each_step_is_shown_as_far_as_it_is() -> None:
    failed = WaveStepFailed(wave="w", vm="b", sentence="no node fits", at_us=T0)
    wave = one((0, asked("a", "b", "c", "d")), (1, begun("a")), (2, begun("b")), (9, begun("b", 2)), (11, failed), (12, begun("c")),
               (13, ran("a", T0 + 3 * S)), (14, WaveCancelRequested(wave="w")))  # fmt: skip
    assert [(step.vm, step.state, step.attempts) for step in wave.steps] == [
        ("a", "running", 1), ("b", "failed", 2), ("c", "begun", 1), ("d", "waiting", 0),
    ]  # fmt: skip
    a, b = wave.steps[0], wave.steps[1]
    assert (a.place, a.begun_us, a.ran_us, a.first_ms, a.recovery) == (1, T0 + S, T0 + 3 * S, 2000, "r1-3")
    assert (b.begun_us, b.sentence) == (T0 + 2 * S, "no node fits")
    assert (wave.state, wave.actor, wave.task) == ("cancelled", "user:ann", "task-1")
    assert (wave.asked_us, wave.changed_us) == (T0, T0 + 14 * S)
    assert [(left.vm, left.sentence) for left in wave.left] == [("z", "it has no backup")] and wave.left_more == 3


def test_at_its_end_its_figures_are_shown_and_what_never_began() -> None:
    end = WaveEnded(
        wave="w", recovered=1, failed=0, at_us=T0, unbegun=1, first_ms_p50=2000, first_ms_max=2000, took_s=3.0
    )
    wave = one((0, asked("a", "b")), (1, begun("a")), (3, ran("a", T0 + 3 * S)), (4, end))
    assert (wave.state, wave.recovered, wave.unbegun, wave.first_ms_p50, wave.took_s) == ("ended", 1, 1, 2000, 3.0)
    assert [step.state for step in wave.steps] == ["running", "unbegun"] and wave.ended_us == T0 + 4 * S
    assert forecast(wave, T0 + 9 * S) is None


def test_when_all_will_run_is_told_by_what_the_first_ones_took() -> None:
    wave = one((0, asked("a", "b", "c", "d", "e")), (0, begun("a")), (0, begun("b")))
    assert forecast(wave, T0 + S) is None, "nothing is known yet"
    wave = one((0, asked("a", "b", "c", "d", "e")), (0, begun("a")), (0, begun("b")), (2, ran("a", T0 + 2 * S)), (2, begun("c")))
    assert forecast(wave, T0 + 3 * S) == Forecast(run_us=T0 + 6 * S, left=4, of=1), "b is late, d in its place; e in that of c"


def test_what_comes_after_one_another_takes_so_much_longer() -> None:
    order = asked("a", "b", "c", "d", at_once=4, c=("b",), d=("c",))
    events = [(0, order), (0, begun("a")), (0, begun("b")), (2, ran("a", T0 + 2 * S))]
    assert forecast(one(*events), T0 + S) == Forecast(run_us=T0 + 6 * S, left=3, of=1)


def test_a_cancelled_wave_is_over_when_what_has_begun_runs() -> None:
    events = [(0, asked("a", "b", "c")), (0, begun("a")), (0, begun("b")), (2, ran("a", T0 + 2 * S))]
    wave = one(*events, (3, WaveCancelRequested(wave="w")))
    assert forecast(wave, T0 + S) == Forecast(run_us=T0 + 2 * S, left=1, of=1)


def test_the_newest_are_kept_and_those_that_go_on_longest() -> None:
    end = WaveEnded(wave="v1", recovered=1, failed=0, at_us=T0)
    view = told((0, asked("a", wave="w")), (0, asked("a", wave="v1")), (0, end))
    for n in range(2, KEPT_MAX + 1):
        told((n, asked("a", wave=f"v{n}")), view=view)
    assert "w" in view.all and "v1" not in view.all and len(view.all) == KEPT_MAX


def test_every_event_has_its_sentence() -> None:
    order = of_waves(asked("a", "b"))
    assert order == "2 VMs to be recovered, 2 at once, in this order: a, b; 4 VMs left out"
    assert of_waves(begun("a", 2)) == "the wave w recovers a from b1-1, 1 of 9 (normal), asked for the 2. time"
    assert of_waves(ran("a", T0)) == "a of the wave w runs, 2000 ms after its recovery was asked for"
    assert "gave a up: no" in of_waves(WaveStepFailed(wave="w", vm="a", sentence="no", at_us=T0))
    assert of_waves(WaveCancelRequested(wave="w"))
    assert "3 run, 1 not" in of_waves(WaveEnded(wave="w", recovered=3, failed=1, at_us=T0))
    assert of_waves(STEP) == ""
