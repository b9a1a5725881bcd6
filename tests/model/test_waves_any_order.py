"""Waves of any VMs, dependencies and limits, whose recoveries run, fail, are late or are never heard of, in any order: the order
keeps to class and dependency, nothing begins twice or before its time, no more begin than may, and each wave ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from proto.devices import VmPhase
from proto.io import Refusal
from proto.machine import Priority
from proto.waves import (
    HOME_S,
    AdvanceWave,
    After,
    CancelWave,
    WaveCandidate,
    WaveEnded,
    WaveRequested,
    WaveSeen,
    WaveStep,
    WaveStepBegun,
    WaveStepDone,
    WaveStepFailed,
)
from services.io.waves.model import WAVE
from services.io.waves.ordering import RANK
from tests.model.test_waves import NOW, S, many, vm

STEPS_MAX = 400


@dataclass
class Cluster:
    """What becomes of what was begun, as io's own view would tell it. deaf: those whose recovery is refused each time."""

    random: Random
    events: list[Any]
    now_us: int = NOW
    seen: dict[str, WaveSeen] = field(default_factory=dict)
    deaf: set[str] = field(default_factory=set)

    def tell(self, command: Any) -> None:
        state = WAVE.fold(self.events)
        for event in WAVE.decide(command, state):
            self.check(event)
            self.events.append(event)
            if isinstance(event, WaveStepBegun) and event.vm not in self.deaf and self.random.random() < 0.8:
                one = WaveSeen(vm=event.vm, recovery=f"r1-{len(self.events)}", asked_us=self.now_us)
                self.seen.setdefault(event.vm, one)

    def tick(self) -> None:
        self.tell(AdvanceWave(wave="w", now_us=self.now_us, seen=tuple(self.seen.values())))

    def befall(self) -> None:
        self.now_us += self.random.choice((0, S, S, 5 * S, 11 * S, 61 * S))
        for name, one in list(self.seen.items()):
            match self.random.random():
                case chance if not one.recovery or chance < 0.6:
                    pass
                case chance if not one.ran_us and not one.failed:
                    what = {"failed": "no"} if chance > 0.95 else {"ran_us": self.now_us}
                    self.seen[name] = replace(one, **what)
                case _ if one.ran_us:
                    self.seen[name] = replace(one, home=True)

    # --- what may never be ------------------------------------------------------------------------------------------

    @property
    def order(self) -> WaveRequested:
        first: WaveRequested = self.events[0]
        return first

    def ran(self) -> set[str]:
        return {event.vm for event in self.events if isinstance(event, WaveStepDone)}

    def over(self) -> set[str]:
        return self.ran() | {event.vm for event in self.events if isinstance(event, WaveStepFailed)}

    def begun(self) -> set[str]:
        return {event.vm for event in self.events if isinstance(event, WaveStepBegun)}

    def check(self, event: Any) -> None:
        """Before it is added: may it be?"""
        assert not any(isinstance(one, WaveEnded) for one in self.events), "it had ended"
        match event:
            case WaveStepBegun(vm=name):
                self.begins(next(step for step in self.order.steps if step.vm == name), event)
            case WaveStepDone(vm=name):
                assert name in self.begun() - self.over()
            case WaveStepFailed(vm=name):
                assert name not in self.over()
            case WaveEnded():
                assert self.begun() <= self.over() and event.recovered + event.failed + event.unbegun == len(self.order.steps)
                assert event.recovered == len(self.ran())

    def begins(self, step: WaveStep, event: WaveStepBegun) -> None:
        ran, over, begun = self.ran(), self.over(), self.begun()
        assert step.vm not in over, "what is over begins again"
        assert (event.attempt == 1) == (step.vm not in begun), "asked for twice"
        assert set(step.after) <= ran, "before what it comes after"
        if event.attempt > 1:
            assert self.seen.get(step.vm) is None, "it is in the log, and asked for again"
            return
        order = self.order
        starting = begun - over
        home = {name for name, one in self.seen.items() if one.home}
        coming = (starting | ran) - home
        assert len(starting) < order.at_once
        assert not order.copying_max or len(coming) < order.copying_max
        mibs = [one.mib for one in order.steps if one.where == step.where and one.vm in coming]
        if order.bandwidth_mibps and mibs:
            assert sum(mibs) + step.mib <= order.bandwidth_mibps * HOME_S
        for other in order.steps[: event.place - 1]:
            free = other.vm not in begun | over and set(other.after) <= ran
            assert not free or order.bandwidth_mibps, f"{other.vm} was before it, and could begin"


def in_order(event: WaveRequested) -> None:
    """Each step stands after what it comes after; of two that both could be next, the one that is worth more, or smaller."""
    steps = {step.vm: step for step in event.steps}
    worth = {name: RANK[step.priority] for name, step in steps.items()}
    for step in reversed(event.steps):
        for first in step.after:
            worth[first] = min(worth[first], worth[step.vm])
    placed: set[str] = set()
    for step in event.steps:
        assert set(step.after) <= placed
        for other in event.steps:
            if other.vm not in placed and set(other.after) <= placed:
                assert (worth[step.vm], step.mib, step.vm) <= (worth[other.vm], other.mib, other.vm)
        placed.add(step.vm)


def some(random: Random) -> tuple[list[WaveCandidate], tuple[After, ...]]:
    names = [f"v{n}" for n in range(random.randint(1, 9))]
    those = [
        vm(
            name, random.choice(list(Priority)), random.randint(1, 5) * HOME_S, where=random.choice(("safe s1", "far s2")),
            phase=random.choice((VmPhase.UNKNOWN, VmPhase.STOPPED)),
        )
        for name in names
    ]  # fmt: skip
    pairs = [(a, b) for a in names for b in names if a < b]
    random.shuffle(names)  # whichever way round
    place = {name: n for n, name in enumerate(names)}
    after = [After(vm=max(p, key=place.__getitem__), first=min(p, key=place.__getitem__)) for p in pairs if random.random() < 0.2]
    return those, tuple(after)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_a_wave_keeps_to_its_order_and_its_limits_and_ends(seed: int) -> None:
    random = Random(seed)
    those, after = some(random)
    wish: dict[str, Any] = {
        "at_once": random.randint(1, 4), "copying_max": random.choice((0, 0, 2, 3)), "bandwidth_mibps": random.choice((0, 0, 6)),
        "lose": tuple(one.vm for one in those),
    }  # fmt: skip
    (event,) = WAVE.decide(many(*those, after=after, **wish), WAVE.initial)
    assert isinstance(event, WaveRequested) and {step.vm for step in event.steps} == {one.vm for one in those}
    in_order(event)
    cluster = Cluster(random, [event], deaf={one.vm for one in those if random.random() < 0.1})
    cancel_at = random.choice((-1, -1, random.randint(0, 30)))
    for n in range(STEPS_MAX):
        if n == cancel_at:
            cluster.tell(CancelWave(wave="w"))
        cluster.befall()
        for _ in range(random.randint(1, 2)):
            if not isinstance(cluster.events[-1], WaveEnded):
                cluster.tick()
        if isinstance(cluster.events[-1], WaveEnded):
            break
    assert isinstance(cluster.events[-1], WaveEnded), cluster.events
    assert cluster.deaf.isdisjoint(cluster.ran())


@given(seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_dependencies_that_cannot_be_are_refused_by_a_true_circle(seed: int) -> None:
    random = Random(seed)
    names = [f"v{n}" for n in range(random.randint(1, 6))]
    pairs = {(random.choice(names), random.choice(names)) for _ in range(random.randint(0, 9))}
    after = tuple(After(vm=a, first=b) for a, b in sorted(pairs))
    try:
        (event,) = WAVE.decide(many(*map(vm, names), after=after), WAVE.initial)
    except Refused as no:
        assert no.reason is Refusal.CIRCLE
        circle = no.sentence.partition(":")[0].split(" waits for ")
        assert circle[0] == circle[-1] and len(circle) == len(set(circle)) + 1
        assert set(pairwise(circle)) <= pairs
    else:
        assert isinstance(event, WaveRequested)
        place = {step.vm: n for n, step in enumerate(event.steps)}
        assert all(place[first] < place[name] for name, first in pairs)
