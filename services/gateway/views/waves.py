"""Waves: many VMs recovered by one order, the newest hundred, as the events tell of them. Pure.

    going-on ──▶ ended        a step: waiting ──▶ begun ──▶ running | failed, or unbegun where the wave was cancelled
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from libs.common.messages import Recorded, decode_meta
from proto import waves as w
from proto.waves import WaveLeft, WaveStep

KEPT_MAX = 100


class Step(msgspec.Struct):
    """place: counted from 1. reason: why it has that place; sentence: why it failed. first_ms: from when its recovery was asked for
    until it ran; recovery: its id. begun_us, ran_us: by the log's clock, microseconds since the epoch; 0: not yet."""

    vm: str
    place: int
    state: Literal["waiting", "begun", "running", "failed", "unbegun"]
    backup: str
    taken_us: int
    priority: str
    mib: int
    pool: str
    after: list[str]
    lose: bool
    reason: str
    sentence: str = ""
    recovery: str = ""
    attempts: int = 0
    begun_us: int = 0
    ran_us: int = 0
    first_ms: int | None = None


class Left(msgspec.Struct):
    """well: it needs no recovery."""

    vm: str
    sentence: str
    well: bool


class Forecast(msgspec.Struct):
    """When all run that are still to, at the earliest, by what those took that ran: at_once begin together, and what comes after
    one another does so. Data that is to come home first is not in it. of: how many it is learnt from."""

    run_us: int
    left: int
    of: int


class Wave(msgspec.Struct):
    """until_us: no backup of a later instant was taken, 0: of any. left_more: VMs left out beside those named. first_ms_p50, _max:
    of all that ran; took_s: from the order until the last one ran; both once it has ended."""

    name: str
    state: Literal["going-on", "cancelled", "ended"]
    asked_us: int
    steps: list[Step]
    left: list[Left]
    left_more: int
    until_us: int
    at_once: int
    copying_max: int
    bandwidth_mibps: int
    actor: str = ""
    task: str = ""
    ended_us: int = 0
    recovered: int = 0
    failed: int = 0
    unbegun: int = 0
    first_ms_p50: int = 0
    first_ms_max: int = 0
    took_s: float = 0.0
    changed_us: int = 0

    def step(self, vm: str) -> Step | None:
        return next((step for step in self.steps if step.vm == vm), None)


@dataclass(slots=True)
class WavesView:
    """all: by name, the oldest first."""

    all: dict[str, Wave] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        if type(event) is w.WaveRequested:
            self._asked(recorded, event)
        elif type(event) in OF_WAVE and (wave := self.all.get(event.wave)) is not None:
            wave.changed_us = recorded.at_us
            _goes_on(wave, event, recorded.at_us)

    def _asked(self, recorded: Recorded, event: w.WaveRequested) -> None:
        meta = decode_meta(recorded.meta)
        self.all[event.wave] = Wave(
            name=event.wave, state="going-on", asked_us=recorded.at_us, steps=steps(event.steps), left=left(event.left),
            left_more=event.left_more, until_us=event.until_us, at_once=event.at_once, copying_max=event.copying_max,
            bandwidth_mibps=event.bandwidth_mibps, actor=meta.actor, task=meta.correlation, changed_us=recorded.at_us,
        )  # fmt: skip
        while len(self.all) > KEPT_MAX:
            ended = (name for name, one in self.all.items() if one.ended_us)
            del self.all[next(ended, next(iter(self.all)))]


def steps(those: tuple[WaveStep, ...]) -> list[Step]:
    return [
        Step(
            vm=one.vm, place=n, state="waiting", backup=one.backup, taken_us=one.taken_us, priority=one.priority.value, mib=one.mib,
            pool=one.where, after=list(one.after), lose=one.lose, reason=one.reason,
        )
        for n, one in enumerate(those, 1)
    ]  # fmt: skip


def left(those: tuple[WaveLeft, ...]) -> list[Left]:
    return [Left(one.vm, one.sentence, one.well) for one in those]


def _goes_on(wave: Wave, event: Any, at_us: int) -> None:
    step = wave.step(event.vm) if type(event) in OF_STEP else None
    match event:
        case w.WaveStepBegun() if step is not None:
            step.state, step.attempts, step.begun_us = "begun", event.attempt, step.begun_us or at_us
        case w.WaveStepDone() if step is not None:
            step.state, step.recovery, step.first_ms, step.ran_us = "running", event.recovery, event.first_ms, event.at_us
        case w.WaveStepFailed() if step is not None:
            step.state, step.sentence = "failed", event.sentence
        case w.WaveCancelRequested():
            wave.state = "cancelled"
        case w.WaveEnded():
            wave.ended_us, wave.recovered, wave.failed, wave.unbegun = at_us, event.recovered, event.failed, event.unbegun
            wave.first_ms_p50, wave.first_ms_max, wave.took_s = event.first_ms_p50, event.first_ms_max, event.took_s
            wave.state = "ended"
            for one in wave.steps:
                one.state = "unbegun" if one.state == "waiting" else one.state


def forecast(wave: Wave, now_us: int) -> Forecast | None:
    """None: all that will run do, or none has run by which it could be told."""
    took = sorted(step.first_ms for step in wave.steps if step.first_ms is not None)
    waiting = [step for step in wave.steps if step.state == "waiting"] if wave.state == "going-on" else []
    begun = [step for step in wave.steps if step.state == "begun"]
    if wave.ended_us or not took or not (waiting or begun):
        return None
    each_us = took[(len(took) - 1) // 2] * 1000
    ends = sorted(max(now_us, step.begun_us + each_us) for step in begun)
    at = {step.vm: end for step, end in zip(sorted(begun, key=lambda step: step.begun_us), ends, strict=True)}
    free = sorted([*ends, *[now_us] * max(0, wave.at_once - len(ends))])[: wave.at_once]
    for step in waiting:
        start = max(free.pop(0), *(at.get(vm, now_us) for vm in step.after), now_us)
        at[step.vm] = start + each_us
        free = sorted([*free, at[step.vm]])
    return Forecast(run_us=max(at.values()), left=len(waiting) + len(begun), of=len(took))


OF_STEP = frozenset({w.WaveStepBegun, w.WaveStepDone, w.WaveStepFailed})
OF_WAVE = frozenset({*OF_STEP, w.WaveCancelRequested, w.WaveEnded})
