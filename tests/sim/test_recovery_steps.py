"""One recovery, and whatever dies at each of its steps: a VM is backed up, written to, backed up incrementally, deleted, made anew,
and its data comes home. At each event of that a world branches: there a service, the relay, an agent, a node dies, or the log is
lost and restored; and everything that is said is said twice. Each ends with all that must hold (libs/world/backup_checks.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
from msgspec.structs import replace

from libs.world import play
from libs.world.befall import befall
from libs.world.branch import Mould
from libs.world.play import Outcome, settle, started
from libs.world.story import Sky, Step, Story
from libs.world.world import World
from services.io.recoveries import RecoveryViews
from services.io.views import Views

VM = "vm-0"
BACK_S = 1.5
PEACE_S = 25.0
STEPS = (
    Step("backup", 0.1, VM),
    Step("guest_write", 0.3, VM),
    Step("backup", 0.5, VM),
    Step("guest_write", 0.7, VM),
    Step("stop", 0.8, VM),
    Step("delete", 1.2, VM),
    Step("recover", 2.0, VM),
    *(Step("guest_write", 2.6 + n * 0.25, VM) for n in range(16)),
)
STORY = Story(seed=1, nodes=2, vms=1, seconds=7.0, peace_s=PEACE_S, steps=STEPS)


def whole(story: Story = STORY) -> Outcome:
    outcome = play.play(story)
    assert not outcome.fault, outcome.fault
    return outcome


@cache
def instants() -> tuple[int, ...]:
    """At which something was decided, microseconds since the story began."""
    world = whole().world
    rows = world.log.read_all_now(world.oldest, 10**6)
    return tuple(sorted({row.at_us - world.start_us for row in rows if row.at_us - world.start_us < 7_000_000}))


def types(world: World) -> set[str]:
    return set(world.checker.types)


def test_it_goes_its_way() -> None:
    outcome = whole()
    shown = {"backup_taken", "vm_deleted", "recovery_requested", "disks_recovered", "disks_home", "recovery_ended"}
    assert shown <= types(outcome.world)
    kinds = [event.done.kind for event in _taken(outcome.world)]
    assert kinds == ["full", "incremental"]
    on = next(iter(outcome.world.pool.disks[key] for key in outcome.world.pool.disks if "vm-0" in key))
    assert on.count("+") > 5, "what was written is not there"
    assert len(instants()) > 30


def _taken(world: World) -> Iterator[Any]:
    rows = (row for row in world.log.read_all_now(world.oldest, 10**6) if row.type == "backup_taken")
    return map(world.checker.event, rows)


def kill(do: str, who: str) -> Callable[[World], None]:
    return lambda world: befall(world, Step(do, 0.0, who, BACK_S))


def on_target(do: str) -> Callable[[World], None]:
    """Of the node that has the VM, or is to."""

    def way(world: World) -> None:
        here = (name for name, node in world.agents.items() if VM in node.host.vms)
        befall(world, Step(do, 0.0, next(here, "n1"), BACK_S))

    return way


def lose(events: int) -> Callable[[World], None]:
    return lambda world: befall(world, Step("restore", 0.0, more={"events": events}))


def lose_and_delete(events: int, after_s: float) -> Callable[[World], None]:
    """Who has the log of before does not know that a VM stands on the backup, and that for long."""

    def way(world: World) -> None:
        lose(events)(world)
        for node in world.agents.values():
            node.host.params = dataclasses.replace(node.host.params, home_us=8_000_000)
        for n in range(7):
            for age in (0, 1):
                step = Step("backup_delete", who=VM, more={"age": age})
                world.net.after(round((after_s + n) * 1e6), partial(befall, world, step))

    return way


def all_power(world: World) -> None:
    for name in world.agents:
        befall(world, Step("power", 0.0, name, BACK_S))


FAULTS: dict[str, Callable[[World], None]] = {
    **{name: kill("service_kill", name) for name in ("compute", "io", "memory", "ha")},
    "relay": kill("relay_kill", ""),
    "agent": on_target("agent_kill"),
    "process": lambda world: befall(world, Step("vm_kill", 0.0, VM)),
    "power": on_target("power"),
    "power of all": all_power,
    "control": kill("control_down", ""),
    "restore of 1": lose(1),
    "restore of 5": lose(5),
    "restore of 20": lose(20),
    **{f"restore of {n}, and they are deleted after {s} s": lose_and_delete(n, s) for n in (3, 10, 20) for s in (0.1, 2.0)},
}


def each_step(fault: Callable[[World], None]) -> Iterator[Outcome]:
    """Just after each event, before anybody has heard of it."""
    world = started(STORY)
    for at_us in instants():
        world.run_to(at_us / 1e6)
        branch = Mould(world).cast()
        outcome = Outcome(STORY, branch)
        with outcome.judging():
            fault(branch)
            branch.run_to(STORY.seconds)
            settle(outcome)
        yield outcome


@pytest.mark.parametrize("name", FAULTS)
def test_it_dies_at_each_step(name: str) -> None:
    outcomes = list(each_step(FAULTS[name]))
    faults = [f"at {at / 1e6}: {one.fault}" for at, one in zip(instants(), outcomes, strict=True) if one.fault]
    assert not faults, "\n".join(faults)


# --- each step twice ----------------------------------------------------------------------------------------------------------

TWICE = (Sky(twice=1.0), Sky(twice=1.0, late=0.2, late_s=1.0), Sky(twice=1.0, late=0.3, late_s=4.0, commit_ms=40))


@pytest.mark.parametrize("sky", TWICE, ids=("at once", "late", "very late"))
def test_each_message_comes_twice(sky: Sky) -> None:
    """Commands, facts, orders, what is published: the second may come long after what followed upon the first."""
    for seed in range(12):
        outcome = whole(replace(STORY, seed=seed, sky=sky, peace_s=40.0))
        assert {"disks_home", "recovery_ended"} <= types(outcome.world) or sky.late, "it shows nothing"


def test_each_step_is_asked_for_twice() -> None:
    for later_s in (0.001, 0.05, 0.4, 1.5):
        again = tuple(replace(step, at=round(step.at + later_s, 3)) for step in STEPS)
        outcome = whole(replace(STORY, steps=(*STEPS, *again), seconds=9.0, peace_s=40.0))
        assert "disks_home" in types(outcome.world)


# --- guards -------------------------------------------------------------------------------------------------------------------


def nobody_asks_what_stands_on_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecoveryViews, "stood_on", lambda self, vm: {})


def nobody_waits_for_those_unheard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Views, "unheard", lambda self, incarnation: ())


@pytest.mark.parametrize("mutant", [nobody_asks_what_stands_on_it, nobody_waits_for_those_unheard], ids=lambda one: one.__name__)
def test_each_guard_of_a_restore_is_missed(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    names = [name for name in FAULTS if "deleted" in name]
    faults = (one.fault.partition(": ")[2] for name in names for one in each_step(FAULTS[name]))
    assert any(fault.startswith("B3") for fault in faults), "nobody missed it"
