"""Nodes that run short of memory, in the deterministic world: the production services, agents' steppers and ladder around simulated
guests. Noisy neighbour, thrash, a failed DIMM, the last rungs; and what happens when a guard is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sin
from typing import Any

import pytest

from libs.common.registry import Registry, members
from libs.world.faults import Storm, story
from libs.world.memory import NodeMemory
from libs.world.world import World
from proto.compute import (
    DefineVm,
    StartVm,
    StopVm,
    VmAllotmentDenied,
    VmAllotted,
    VmEvent,
    VmPaused,
    VmResumed,
)
from proto.ladder import LadderClimbed, LadderDescended, Level, MemoryPolicy, Rung, VmMoveWanted, VmPauseWanted
from proto.machine import DiskWish, Priority
from proto.memory import CapacityExceeded, LedgerEvent, SetMemoryPolicy
from proto.migration import VmMigrationEnded
from proto.plan import SetAllotment
from proto.upcasts import UPCASTS
from services.memory import balloon, grips, scene
from services.memory.ladder import min_free_mib
from services.memory.states import Grip
from services.node.drivers.simparams import SimParams

EVENTS = Registry((*members(LedgerEvent), *members(VmEvent)), UPCASTS)
CRIT, IMP, NORM, BEST = Priority
READY_S = 6.0


def cluster(memory_mib: int, nodes: Sequence[str] = ("n1",), swap_mib: int = 0) -> World:
    """A move takes some seconds."""
    params = SimParams(memory_mib=memory_mib, swap_mib=swap_mib, balloon=True, pcpus=64, move_us=8_000_000)
    world = World(1, nodes=nodes, params=params)
    world.begin()
    world.run(READY_S)
    return world


def start(world: World, vm: str, memory_mib: int, priority: Priority, use: Callable[[int], int], node: str = "n1") -> bool:
    """use: MiB by the second since the start. Whether it runs."""
    begun = world.second
    world.uses[vm] = lambda second: use(second - begun)
    define = DefineVm(vm=vm, memory_mib=memory_mib, disks=(DiskWish(image="tiny"),), priority=priority)
    world.ask("compute", f"vm-{vm}", define)
    world.run(0.5)
    world.ask("compute", f"vm-{vm}", StartVm(vm=vm, node=node))
    world.run(3.0)
    return any(vm in agent.host.vms for agent in world.agents.values())


def events(world: World, *kinds: type) -> list[Any]:
    found = [EVENTS.event(r) for r in world.log.read_all_now(0, 10**6) if EVENTS.knows(r.type)]
    return [event for event in found if isinstance(event, kinds)]


def settle(world: World) -> None:
    """At an instant at which no tick is just being decided."""
    for _ in range(20):
        world.run(0.1)
        if all(process.host is not None and process.host.idle() for process in world.services.values()):
            break
    world.checker.settled()


def memory(world: World, node: str = "n1") -> NodeMemory:
    return world.agents[node].memory


def touched(world: World) -> set[str]:
    return {step.vm for event in events(world, LadderClimbed) for step in event.steps}


def steady(mib: int) -> Callable[[int], int]:
    return lambda second: mib


def noisy() -> World:
    """A critical VM, one at work, one that has become idle, and a best-effort one that grows without end."""
    world = cluster(16_384, swap_mib=2048)
    start(world, "crit", 3072, CRIT, steady(3000))
    start(world, "norm", 4096, NORM, steady(3500))
    start(world, "idle", 4096, NORM, lambda s: 3500 if s < 60 else 600)
    start(world, "noisy", 6144, BEST, lambda s: min(6100, 500 + max(0, s - 90) * 10))
    world.run(80.0)
    assert events(world, LadderClimbed) == [], "all of it fits"
    world.run(900.0)
    return world


def test_a_noisy_neighbour_pays_for_itself() -> None:
    world = noisy()
    here = memory(world)
    assert here.available_mib >= min_free_mib(16_384) * 32 // 100, "it came back from need"
    assert here.worst_mib == 0, "the host never had less than nothing"
    assert "crit" not in touched(world) and here.lowest_mib["crit"] == 3072
    assert here.lowest_mib["norm"] >= 3500, "what a neighbour is using was left to it"
    assert here.guests["idle"].balloon_mib < 3500, "what nobody used was taken first"
    first = next(s for e in events(world, LadderClimbed) for s in e.steps if s.rung is Rung.BALLOON)
    assert first.vm in ("idle", "noisy"), "the cheapest pays first"
    world.ask("compute", "vm-noisy", StopVm(vm="noisy", deadline_s=0))
    world.run(400.0)
    assert {vm: g.balloon_mib for vm, g in here.guests.items()} == {"crit": 3072, "norm": 4096, "idle": 4096}
    assert events(world, LadderDescended), "and what was taken is given back"
    settle(world)


def test_young_vms_give_what_they_are_not_expected_to_need() -> None:
    """On the soft rung: minutes after their start, long before their own past speaks for them."""
    world = cluster(8704)
    for vm in ("a", "b", "c"):
        start(world, vm, 3072, NORM, steady(900))
    guests = memory(world).guests
    guests["a"].touched_mib = guests["b"].touched_mib = 3000  # as a page cache does
    world.run(240.0)
    assert events(world, LadderClimbed) == []
    for _ in range(60):
        memory(world).guests["c"].touched_mib += 20
        world.run(1.0)
    climbs = events(world, LadderClimbed)
    steps = [step for event in climbs for step in event.steps]
    assert steps and all(event.level is Level.SOFT for event in climbs) and {step.rung for step in steps} == {Rung.BALLOON}
    assert all(step.to_mib >= max(step.demand_mib, step.reservation_mib) for step in steps)
    assert all(2000 <= step.demand_mib < 3072 for step in steps), "an estimate, far above all that was seen"


def test_a_load_that_swings_around_the_edge_does_not_make_the_ladder_swing() -> None:
    world = cluster(7500)
    for n in range(4):
        use: Callable[[int], int] = lambda s, n=n: 500 if s < 30 else int(1500 + 300 * sin(s / 20 + n))  # type: ignore[misc]  # noqa: E731
        start(world, f"v{n}", 2048, NORM, use)
    world.run(1800.0)
    decided = events(world, LadderClimbed, LadderDescended)
    turns = sum(type(a) is not type(b) for a, b in pairwise(decided))
    assert decided and turns <= 20, f"{turns} turns in half an hour"
    climbs = [e.seen.at_us for e in events(world, LadderClimbed)]
    assert all(b - a >= 1_000_000 for a, b in pairwise(climbs)), "guests need time to give"
    since = world.net.now_us - 600_000_000
    assert len([e for e in decided if e.seen.at_us >= since]) <= 30, "it does not decide for ever"


def test_a_failed_dimm_is_said_at_once_and_what_cannot_stay_moves_away() -> None:
    world = cluster(16_384, nodes=("n1", "n2"))
    start(world, "crit", 4096, CRIT, steady(4000))
    start(world, "norm", 4096, NORM, steady(3500))
    start(world, "best", 4096, BEST, steady(3000))
    start(world, "best-2", 4096, BEST, steady(3000))
    world.run(30.0)
    promised = dict(world.checker.proof.nodes["n1"].vms)
    memory(world).lose(5500)
    world.run(3.0)
    (exceeded,) = events(world, CapacityExceeded)
    assert exceeded.short_mib > 0 and set(exceeded.would_go) == {"best"}, "the least that would have to go"
    now = world.checker.proof.nodes["n1"].vms
    assert all(now[vm].promise == promised[vm].promise for vm in now), "nothing is taken from anyone"
    assert set(promised) == set(now), "and nobody has left yet"
    assert not start(world, "new", 256, NORM, steady(10)), "nothing new is promised there"
    world.run(120.0)
    gone = {event.vm for event in events(world, VmMigrationEnded)}
    assert gone and gone <= {"best", "best-2"} and all(event.node == "n2" for event in events(world, VmMigrationEnded))
    assert {"crit", "norm"} <= set(world.agents["n1"].host.vms)
    assert memory(world).lowest_mib["crit"] == 4096 and "crit" not in touched(world)
    world.run(120.0)
    assert start(world, "newer", 256, NORM, steady(10)), "it fits again"
    settle(world)


def test_where_nobody_can_go_one_stands_still_until_there_is_memory() -> None:
    """The last rung. The only node loses what balloons cannot bring, and no other can take anyone."""
    world = cluster(8192)
    start(world, "crit", 2048, CRIT, steady(2000))
    start(world, "norm", 4096, NORM, lambda s: 2000 if s < 10 else 4000)
    start(world, "best", 2048, BEST, lambda s: min(2000, 200 + s * 10))
    world.run(10.0)
    memory(world).lose(3200)
    world.run(120.0)
    assert {e.vm for e in events(world, VmMoveWanted)} == {"best"} == {e.vm for e in events(world, VmPauseWanted)}
    assert [e.vm for e in events(world, VmPaused)] == ["best"]
    assert world.agents["n1"].host.vms["best"].status == "paused"
    assert memory(world).lowest_mib["crit"] == 2048 and memory(world).lowest_mib["norm"] >= 2048
    world.ask("compute", "vm-norm", StopVm(vm="norm", deadline_s=0))
    world.run(120.0)
    assert [e.vm for e in events(world, VmResumed)] == ["best"], "it goes on once there is"
    assert world.agents["n1"].host.vms["best"].status == "running"
    settle(world)


def test_a_running_vm_is_worth_more_where_its_node_holds_it_and_else_all_is_as_before() -> None:
    world = cluster(4096)
    start(world, "a", 2048, NORM, steady(500))
    start(world, "b", 2048, NORM, steady(500))
    world.ask("compute", "vm-a", SetAllotment(vm="a", memory_reserved_mib=1500))
    world.run(2.0)
    (allotted,) = events(world, VmAllotted)
    assert allotted.allotment.memory_reserved_mib == 1500
    world.ask("compute", "vm-b", SetAllotment(vm="b", priority=CRIT))
    world.run(2.0)
    (denied,) = events(world, VmAllotmentDenied)
    assert denied.vm == "b" and "MiB" in denied.sentence
    world.ask("compute", "vm-a", SetAllotment(vm="a", memory_reserved_mib=200))
    world.run(2.0)
    world.ask("compute", "vm-b", SetAllotment(vm="b", priority=CRIT))
    world.run(2.0)
    assert [e.vm for e in events(world, VmAllotted)] == ["a", "a", "b"], "once the other reserves less, it fits"
    world.ask("compute", "vm-a", SetAllotment(vm="a", memory_reserved_mib=1500))
    world.run(2.0)
    assert [e.vm for e in events(world, VmAllotmentDenied)] == ["b", "a"]
    assert world.checker.proof.nodes["n1"].vms["a"].promise.reservation_mib == 200
    world.run(5.0)
    settle(world)


TIGHT = Storm(commands=120, faults=8, vms=8, tight=True)


@pytest.mark.parametrize("first", range(7000, 7020, 10))
def test_ladders_under_faults_keep_every_invariant(first: int) -> None:
    seen: set[str] = set()
    for seed in range(first, first + 10):
        seen |= {recorded.type for recorded in story(seed, TIGHT).log.read_all_now(0, 10**6)}
    wanted = {"ladder_climbed", "ladder_descended", "vm_move_wanted", "vm_allotment_requested"}
    assert wanted <= seen, "the schedules show nothing"


# --- each guard, taken away, is missed -------------------------------------------------------------------------------


def a_critical_vm_is_taken_from(patch: pytest.MonkeyPatch) -> None:
    real = scene._vm

    def all_of_them(cls: type, command: Any, ledger: Any, min_free_mib: int) -> Any:
        held = ledger.reserved
        vms = tuple(
            real(v, held[v.vm], ledger.grips.get(v.vm) or Grip(generation=v.generation), command.seen.at_us)
            for v in command.vms
            if v.vm in held
        )
        return cls(ledger, command.seen, min_free_mib, vms, 0)

    patch.setattr(scene.Scene, "of", classmethod(all_of_them))


def a_reservation_is_no_floor(patch: pytest.MonkeyPatch) -> None:
    from services.memory import ladder

    real = balloon.revoke

    def revoke(holders: Any, wanted_mib: int, in_need: bool) -> Any:
        return real([h._replace(reservation_mib=0, used_mib=0, demand_mib=0) for h in holders], wanted_mib, in_need)

    patch.setattr(ladder, "revoke", revoke)


def a_ledger_promises_what_it_is_asked_for(patch: pytest.MonkeyPatch) -> None:
    from services.memory import model

    patch.setattr(model, "broken", lambda *_: ())


def a_larger_reservation_leaves_the_balloon_as_it_is(patch: pytest.MonkeyPatch) -> None:
    """The ledger agrees, and forgets to let go of what it took."""
    patch.setattr(grips, "after_promise", lambda held, vm, reservation: held)


def the_class_is_said_before_the_ledger_agreed(patch: pytest.MonkeyPatch) -> None:
    from services.compute import allot, model

    def at_once(command: Any, vm: Any) -> Any:
        asked: Any = allot.allot(command, vm)
        return [VmAllotted(vm=e.vm, priority=e.priority, allotment=e.allotment) for e in asked]

    patch.setattr(model, "allot", at_once)


MUTANTS = [
    a_critical_vm_is_taken_from,
    a_reservation_is_no_floor,
    a_ledger_promises_what_it_is_asked_for,
    a_larger_reservation_leaves_the_balloon_as_it_is,
    the_class_is_said_before_the_ledger_agreed,
]


def trouble() -> None:
    """A host that loses so much that everything is taken which may be; then one of its VMs comes to be critical."""
    world = cluster(16_384)
    world.ask("memory", "ledger-n1", SetMemoryPolicy(node="n1", policy=MemoryPolicy(merge=True)))
    start(world, "crit", 4096, CRIT, steady(4000))
    start(world, "norm", 4096, NORM, steady(3500))
    start(world, "best", 4096, BEST, steady(3500))
    memory(world).lose(8500)
    world.run(90.0)
    assert memory(world).guests["norm"].balloon_mib < 2300, "all is taken that may be"
    world.ask("compute", "vm-best", StopVm(vm="best", deadline_s=0))
    world.run(3.0)
    world.ask("compute", "vm-norm", SetAllotment(vm="norm", memory_reserved_mib=2448))
    world.run(3.0)
    for n in range(3):
        start(world, f"more-{n}", 4096, NORM, steady(100))
    world.ask("compute", "vm-norm", SetAllotment(vm="norm", priority=CRIT))
    world.run(60.0)
    settle(world)


def test_the_trouble_is_survived_with_all_guards() -> None:
    trouble()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError, match=r"S9|S12|T4|T1|L1"):
            trouble()
