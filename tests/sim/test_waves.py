"""VMs are recovered in waves while services, agents, nodes and guests die, and people stop and start them beside: each wave ends,
keeps to its order and its limits, and throws nothing away that nobody gave up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from libs.world import faults
from libs.world.faults import Storm, story
from libs.world.world import World
from proto.compute import DeleteVm, StopVm, VmStarted
from proto.families import REGISTRY
from proto.io import TakeBackup
from proto.recovery import RecoveryRequested
from proto.waves import (
    After,
    CancelWave,
    RecoverMany,
    WaveEnded,
    WaveRequested,
    WaveStepBegun,
    WaveStepDone,
    WaveStepFailed,
    WaveWish,
)
from services.io.waves import advancing, knowing
from services.io.waves.states import Wave, Word

BATCH = 10
STORM = Storm(commands=120, faults=15)
OTHERS = 0.3
"""how many commands are those of any storm"""
LONGEST_S = 200.0
"""what a step that never runs is waited for, and more"""
_any = faults._command


def people(world: World, random: Random, storm: Storm) -> Callable[[], None]:
    """Rather those that lead to a wave: it takes backups, and VMs at rest or deleted."""
    if random.random() < OTHERS:
        return _any(world, random, storm)
    vms = [f"vm-{n}" for n in range(storm.vms)]
    vm, wave = random.choice(vms), f"w{random.randrange(20)}"
    some = tuple(random.sample(vms, random.randint(1, storm.vms)))
    after = (After(vm=vms[0], first=vms[1]),) if random.random() < 0.5 else ()
    wish = WaveWish(vms=some, lose=some, after=after, at_once=random.randint(1, 2))
    asked: Any = random.choice([
        *[TakeBackup(vm=vm, pool="default")] * 3, *[RecoverMany(wave=wave, wish=wish)] * 4, CancelWave(wave=wave),
        *[StopVm(vm=vm, deadline_s=0)] * 4, DeleteVm(vm=vm),
    ])  # fmt: skip
    stream = f"backups-{vm}" if isinstance(asked, TakeBackup) else f"wave-{wave}" if hasattr(asked, "wave") else f"vm-{vm}"
    service = "compute" if stream.startswith("vm-") else "io"
    return lambda: (world.ask(service, stream, asked), None)[1]


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Counter[str]]:
    monkeypatch.setattr(faults, "_command", people)

    def play(seed: int) -> Counter[str]:
        world = story(seed, STORM)
        world.run(LONGEST_S)
        return checked(world)

    return play


def checked(world: World) -> Counter[str]:
    """What was in its log. Raises AssertionError."""
    host = world.services["io"].host
    assert host is not None
    for name, slot in host.slots.items():
        open_ = isinstance(slot.state, Wave) and slot.state.steps and not slot.state.ended
        assert not open_, f"seed {world.seed}: {name} never ended"
    assert not host.views.waves.tracks and not host.views.waves.active, f"seed {world.seed}"
    types: Counter[str] = Counter()
    orders: dict[str, WaveRequested] = {}
    far: dict[tuple[str, str], Word] = {}
    touched: dict[str, set[str]] = {}
    for recorded in world.log.read_all_now(0, 10**6):
        types[recorded.type] += 1
        event: Any = REGISTRY.event(recorded)
        where = f"seed {world.seed}, position {recorded.position}: {event}"
        match event:
            case WaveRequested(wave=wave):
                assert wave not in orders, where
                orders[wave], touched[wave] = event, set()
            case WaveStepBegun(wave=wave, vm=vm):
                begins(event, orders[wave], far, where)
                assert not event.lose or vm not in touched[wave] or event.attempt > 1, f"{where}: it was started since the order"
                far[wave, vm] = Word.BEGUN
            case WaveStepDone(wave=wave, vm=vm):
                assert far.get((wave, vm)) is Word.BEGUN, where
                far[wave, vm] = Word.RUNNING
            case WaveStepFailed(wave=wave, vm=vm):
                assert far.get((wave, vm)) in (None, Word.BEGUN), where
                far[wave, vm] = Word.FAILED
            case WaveEnded(wave=wave):
                assert Word.BEGUN not in {word for (of, _), word in far.items() if of == wave}, where
            case VmStarted(vm=vm):
                for wave, those in touched.items():
                    if far.get((wave, vm)) is None:
                        those.add(vm)
            case RecoveryRequested():
                assert event.vm == event.target, "only waves recover here"
    return types


def begins(event: WaveStepBegun, order: WaveRequested, far: dict[tuple[str, str], Word], where: str) -> None:
    step = order.steps[event.place - 1]
    assert step.vm == event.vm and far.get((event.wave, event.vm)) is (Word.BEGUN if event.attempt > 1 else None), where
    assert all(far.get((event.wave, first)) is Word.RUNNING for first in step.after), where
    begun = [vm for (wave, vm), word in far.items() if wave == event.wave and word is Word.BEGUN and vm != event.vm]
    assert len(begun) < order.at_once, where


@pytest.mark.parametrize("first", range(8300, 8340, BATCH))
def test_each_wave_keeps_to_its_order_and_ends(first: int, waves: Callable[[int], Counter[str]]) -> None:
    types: Counter[str] = Counter()
    for seed in range(first, first + BATCH):
        types.update(waves(seed))
    shown = {type: types[type] for type in ("wave_requested", "wave_step_done", "wave_step_failed", "wave_ended", "disks_home")}
    assert types["wave_step_done"] > 5 and types["wave_step_failed"] > 3, f"the schedules show nothing: {shown}"


def nobody_looks_what_came_between(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(knowing, "_barred", lambda *_: "")


def all_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(advancing, "_may", lambda *_: True)


def nobody_is_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(advancing, "RUNS_US_MAX", 10**15)


MUTANTS = [nobody_looks_what_came_between, all_at_once, nobody_is_given_up]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.__name__)
def test_each_guard_is_missed(
    mutant: Callable[[pytest.MonkeyPatch], None], waves: Callable[[int], Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(8300, 8340):
            waves(seed)
