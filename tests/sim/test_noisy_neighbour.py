"""Noisy neighbours, with the production steppers on simulated hosts: who is worth more gets more, a crowded cell is relieved for a
recorded reason, and what an operator changes is in force at once."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.registry import Registry, members
from libs.world.world import World
from proto.compute import DefineVm, StartVm, StopVm
from proto.machine import Allotment, DiskWish, Priority
from proto.plan import PlanApplied, PlanEvent, PlanMade, SetAllotment
from services.compute.plan import COOL_DOWN_US, LOW_S_MIN
from services.node.drivers.simparams import SimParams

EVENTS = Registry(members(PlanEvent))
READY_S = 6.0


def cluster(pcpus: int, cells: int = 1, busy_pct: float = 100.0) -> World:
    """One node, each of whose guests' CPUs wants so much."""
    world = World(1, nodes=("n1",), params=SimParams(pcpus=pcpus, cells=cells, busy_pct=busy_pct))
    world.begin()
    world.run(READY_S)
    return world


def start(world: World, vm: str, priority: Priority = Priority.NORMAL, **wish: Any) -> None:
    define = DefineVm(vm=vm, disks=(DiskWish(image="tiny"),), priority=priority, allotment=Allotment(**wish))
    world.ask("compute", f"vm-{vm}", define)
    world.run(0.5)
    world.ask("compute", f"vm-{vm}", StartVm(vm=vm))
    world.run(2.0)
    assert vm in world.agents["n1"].host.vms


def plans(world: World) -> list[PlanMade]:
    return [event for event in _events(world) if isinstance(event, PlanMade)]


def _events(world: World) -> list[Any]:
    return [EVENTS.event(r) for r in world.log.read_all_now(0, 10**6) if EVENTS.knows(r.type)]


def used_pct(world: World) -> dict[str, float]:
    """Of the latest second."""
    beat = world.agents["n1"].meter.beat
    assert beat is not None
    return {vm.vm: vm.used_pct for vm in beat.vms}


def test_a_critical_vm_keeps_its_pcpu_whoever_spins_beside_it() -> None:
    world = cluster(pcpus=1)
    start(world, "crit", Priority.CRITICAL)
    for n in range(3):
        start(world, f"be-{n}", Priority.BEST_EFFORT)
    world.run(3.0)
    used = used_pct(world)
    assert used["crit"] >= 95.0 and all(used[f"be-{n}"] < 2.0 for n in range(3))


def test_what_is_set_on_a_running_vm_is_in_force_at_once() -> None:
    world = cluster(pcpus=1)
    start(world, "a")
    start(world, "b")
    world.run(2.0)
    assert used_pct(world) == {"a": 50.0, "b": 50.0}
    world.ask("compute", "vm-a", SetAllotment(vm="a", cpu_cap_pct=25))
    world.run(3.0)
    assert used_pct(world) == {"a": 25.0, "b": 75.0}
    world.ask("compute", "vm-a", SetAllotment(vm="a", cpu_cap_pct=0, cpu_weight=900))
    world.run(3.0)
    assert used_pct(world) == {"a": 90.0, "b": 10.0}
    last = _events(world)[-1]
    assert isinstance(last, PlanApplied) and last.revision == plans(world)[-1].revision


def crowded(busy_pct: float) -> World:
    """Two cells of two pCPUs; of eight idle VMs the four that keep running share one cell. Then they want so much."""
    world = cluster(pcpus=4, cells=2, busy_pct=0.0)
    for n in range(8):
        start(world, f"v{n}")
    homes = {vm.vm: vm.pcpus for plan in plans(world) for vm in plan.vms}
    for vm in sorted(vm for vm, pcpus in homes.items() if pcpus == (2, 3)):
        world.ask("compute", f"vm-{vm}", StopVm(vm=vm, deadline_s=0))
    world.run(3.0)
    assert len(world.agents["n1"].host.vms) == 4
    for running in world.agents["n1"].host.vms.values():
        running.busy_pct = busy_pct
    return world


def test_a_crowded_cell_is_relieved_with_reasons_one_move_at_a_time() -> None:
    world = crowded(100.0)
    before = len(plans(world))
    world.run(LOW_S_MIN - 2.0)
    assert len(plans(world)) == before, "patience"
    world.run(12.0)
    (moved,) = plans(world)[before:]
    assert moved.moved and moved.gain_pct >= 20.0 and f"{moved.gain_pct} % more is met" in moved.sentence
    world.run(COOL_DOWN_US / 1e6 - 20.0)
    assert len(plans(world)) == before + 1, "it rests after a move"
    world.run(30.0)
    moves = plans(world)[before:]
    assert [plan.moved != "" for plan in moves] == [True, True] and moves[1].gain_pct >= 20.0
    world.run(2 * COOL_DOWN_US / 1e6)
    assert len(plans(world)) == before + 2, "two and two: nothing is left to win"
    assert set(used_pct(world).values()) == {100.0}
    world.checker.settled()


def test_a_cell_that_is_full_by_an_idle_crowd_is_left_alone() -> None:
    world = crowded(20.0)
    before = len(plans(world))
    world.run(40.0)
    assert len(plans(world)) == before


@pytest.mark.parametrize("fault", ["agent", "service", "power"])
def test_a_plan_outlives_faults(fault: str) -> None:
    world = cluster(pcpus=4, cells=2)
    start(world, "crit", Priority.CRITICAL, cpu_reserved_pct=100)
    start(world, "other")
    node, compute = world.agents["n1"], world.services["compute"]
    match fault:
        case "agent":
            node.crash()
            world.net.after(1_000_000, node.begin)
        case "service":
            compute.crash()
            world.net.after(1_000_000, compute.begin)
        case "power":
            node.power_off()
            world.net.after(1_000_000, node.power_on)
    world.run(40.0)
    world.checker.settled()
    plan = {str(vm.vm): vm for made in plans(world) for vm in made.vms}["crit"]
    assert plan.exclusive and len(plan.pcpus) == 1
