"""A policy that running VMs do not fit holds once they have gone: while services and agents die, while others want their room, and
not at all where they cannot go."""

from __future__ import annotations

from random import Random

import pytest

from libs.common.registry import Registry, members
from libs.memory.promise import charged_mib
from libs.world.control import HostProcess
from libs.world.faults import heal
from libs.world.net import Weather
from libs.world.nodes import NodeProcess
from libs.world.world import World
from proto.compute import DefineVm, StartVm, StopVm, VmEvent
from proto.ladder import MemoryPolicy, VmMoveWanted
from proto.machine import DiskWish, Priority
from proto.memory import (
    CapacityCause,
    CapacitySet,
    LedgerEvent,
    MemoryPolicyDropped,
    MemoryPolicyWanted,
    SetMemoryPolicy,
)
from proto.migration import VmMigrationEnded
from proto.upcasts import UPCASTS
from services.node.drivers.simparams import SimParams

EVENTS = Registry((*members(LedgerEvent), *members(VmEvent)), UPCASTS)
STRICT = MemoryPolicy(ratio_pct=100)
CRIT, NORM, BEST = Priority.CRITICAL, Priority.NORMAL, Priority.BEST_EFFORT
FULL = {"db": (2048, CRIT), "web": (2048, NORM), "batch-1": (1536, BEST), "batch-2": (1024, BEST), "batch-3": (1024, BEST)}
"""7680 MiB of nominal sizes, on a node that may promise 7424: by a ratio of 150 % they fit, by one of 100 % the largest of the
cheapest has to go"""


def full(seed: int, nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> World:
    """n1 holds FULL. A move takes some seconds."""
    world = World(seed, nodes=nodes, params=SimParams(memory_mib=8192, balloon=True, pcpus=64, move_us=4_000_000))
    world.begin()
    world.pool.locking = False
    world.run(6.0)
    for vm, (memory_mib, priority) in FULL.items():
        start(world, vm, memory_mib, priority)
    world.run(5.0)
    assert set(world.agents["n1"].host.vms) == set(FULL)
    return world


def start(world: World, vm: str, memory_mib: int, priority: Priority, node: str = "n1") -> str:
    define = DefineVm(vm=vm, memory_mib=memory_mib, disks=(DiskWish(image="tiny"),), priority=priority)
    world.ask("compute", f"vm-{vm}", define)
    world.run(0.5)
    asked = world.ask("compute", f"vm-{vm}", StartVm(vm=vm, node=node))
    world.run(1.0)
    return asked


def wish(world: World, drain: bool = True) -> str:
    return world.ask("memory", "ledger-n1", SetMemoryPolicy(node="n1", policy=STRICT, drain=drain))


def events[E](world: World, kind: type[E]) -> list[E]:
    found = (EVENTS.event(r) for r in world.log.read_all_now(0, 10**6) if EVENTS.knows(r.type))
    return [event for event in found if isinstance(event, kind)]


def policies(world: World) -> list[int]:
    """Those that came to hold on n1, in order."""
    return [e.policy.ratio_pct for e in events(world, CapacitySet) if e.node == "n1" and e.cause is CapacityCause.POLICY]


def fits(world: World, policy: MemoryPolicy) -> bool:
    held = world.checker.proof.nodes["n1"]
    return charged_mib((vm.promise for vm in held.vms.values()), policy) <= held.capacity_mib


def test_it_holds_once_the_least_that_is_needed_has_gone() -> None:
    world = full(1)
    refused = wish(world, drain=False)
    world.run(2.0)
    assert world.replies[refused].status == "refused" and "batch-1" in world.replies[refused].remedy
    asked = wish(world)
    world.run(2.0)
    assert world.replies[asked].status == "accepted"
    (wanted,) = events(world, MemoryPolicyWanted)
    assert wanted.vms == ("batch-1",) and not fits(world, STRICT) and policies(world) == []
    denied = start(world, "late", 256, BEST)
    assert "late" not in world.agents["n1"].host.vms, world.replies[denied]
    world.run(60.0)
    assert policies(world) == [100] and fits(world, STRICT)
    assert [e.vm for e in events(world, VmMigrationEnded)] == ["batch-1"]
    assert set(world.agents["n1"].host.vms) == set(FULL) - {"batch-1"}
    assert sum("batch-1" in agent.host.vms for agent in world.agents.values()) == 1
    world.checker.settled()


@pytest.mark.parametrize("seed", range(7300, 7306))
def test_it_holds_at_last_whatever_dies_meanwhile(seed: int) -> None:
    world, random = full(seed), Random(f"policy {seed}")
    world.net.weather = Weather(late=0.05, lost=0.1, twice=0.1)
    asked = wish(world)
    processes: list[HostProcess | NodeProcess] = [*world.services.values(), *world.agents.values()]
    for _ in range(8):
        process = random.choice(processes)
        at_us = random.randrange(8_000_000)
        world.net.after(at_us, process.crash)
        world.net.after(at_us + random.randrange(200_000, 2_000_000), process.begin)
    world.run(20.0)
    heal(world)
    world.run(240.0)
    assert world.replies[asked].status == "accepted", world.replies[asked]
    assert policies(world) == [100] and fits(world, STRICT) and not events(world, MemoryPolicyDropped)
    assert {"db", "web"} <= set(world.agents["n1"].host.vms), "the cheapest go, and a critical one never"
    ran = [vm for agent in world.agents.values() for vm in agent.host.vms]
    assert sorted(ran) == sorted(FULL), "each runs, and once"
    world.checker.settled()


def test_where_they_cannot_go_the_policy_stays_what_it_was() -> None:
    world = full(2, nodes=("n1",))
    wish(world)
    world.run(240.0)
    (dropped,) = events(world, MemoryPolicyDropped)
    assert "batch-1 would have to go and did not in 3 attempts" in dropped.sentence
    assert len(events(world, VmMoveWanted)) == 3 and policies(world) == []
    assert set(world.agents["n1"].host.vms) == set(FULL), "nobody lost anything"
    start(world, "late", 256, BEST)
    world.run(5.0)
    assert "late" in world.agents["n1"].host.vms, "what the old policy allows is allowed again"
    world.checker.settled()


def test_who_is_stopped_meanwhile_makes_room_as_well() -> None:
    world = full(3, nodes=("n1",))
    wish(world)
    world.run(10.0)
    assert policies(world) == []
    world.ask("compute", "vm-batch-2", StopVm(vm="batch-2", deadline_s=0))
    world.run(10.0)
    assert policies(world) == [100] and fits(world, STRICT)
    assert "batch-1" in world.agents["n1"].host.vms
    world.checker.settled()
