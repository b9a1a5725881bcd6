"""A node is drained while services and agents die and come back: all its VMs run elsewhere at last, and none ran twice."""

from __future__ import annotations

from random import Random

import pytest

from libs.world.control import HostProcess
from libs.world.faults import heal
from libs.world.net import Weather
from libs.world.nodes import NodeProcess
from libs.world.world import World
from proto.compute import DefineVm, StartVm
from proto.drain import DrainNode
from proto.machine import Allotment, DiskWish

VMS = 5


def drained(seed: int, faults: int) -> World:
    """Five VMs on n1, which is then drained in bad weather; services and agents crash meanwhile."""
    world, random = World(seed), Random(f"drain {seed}")
    world.begin()
    world.pool.locking = False
    world.run(6.0)
    for n in range(VMS):
        world.ask("compute", f"vm-vm-{n}", DefineVm(vm=f"vm-{n}", memory_mib=512, disks=(DiskWish(image="tiny"),)))
    world.run(1.0)
    for n in range(VMS):
        world.ask("compute", f"vm-vm-{n}", StartVm(vm=f"vm-{n}", node="n1"))
    world.run(5.0)
    assert len(world.agents["n1"].host.vms) == VMS
    asked = world.ask("compute", "drain-n1", DrainNode(node="n1"))
    world.run(0.1)  # asked of a compute that begins just then, and has heard no node yet, it would be refused
    world.net.weather = Weather(late=0.05, lost=0.1, twice=0.1)
    processes: list[HostProcess | NodeProcess] = [*world.services.values(), *world.agents.values()]
    for _ in range(faults):
        process = random.choice(processes)
        at_us = random.randrange(8_000_000)
        world.net.after(at_us, process.crash)
        world.net.after(at_us + random.randrange(200_000, 2_000_000), process.begin)
    world.run(20.0)
    heal(world)
    world.run(90.0)
    assert world.replies[asked].status == "accepted", world.replies[asked]
    return world


@pytest.mark.parametrize("seed", range(7000, 7008))
def test_a_drain_ends_with_an_empty_node_whatever_dies_meanwhile(seed: int) -> None:
    world = drained(seed, faults=8)
    assert world.agents["n1"].host.vms == {}
    world.checker.settled()
    types = [recorded.type for recorded in world.log.read_all_now(0, 10**6)]
    assert types.count("node_drained") == 1
    assert types.count("vm_migration_ended") == VMS
    assert "vm_stopped" not in types


def test_no_more_than_two_move_at_once() -> None:
    world = drained(7100, faults=0)
    moving, most = 0, 0
    for recorded in world.log.read_all_now(0, 10**6):
        moving += (recorded.type == "vm_migration_requested") - (recorded.type == "vm_migration_ended")
        most = max(most, moving)
    assert (moving, most) == (0, 2)


def test_a_group_is_drained_as_a_whole() -> None:
    world = World(7200)
    world.begin()
    world.run(6.0)
    for n in range(3):
        define = DefineVm(vm=f"vm-{n}", memory_mib=512, allotment=Allotment(together="db"))
        world.ask("compute", f"vm-vm-{n}", define)
    world.run(1.0)
    for n in range(3):
        world.ask("compute", f"vm-vm-{n}", StartVm(vm=f"vm-{n}", node="n1"))
        world.run(5.0)
    asked = world.ask("compute", "drain-n1", DrainNode(node="n1"))
    world.run(60.0)
    assert world.replies[asked].status == "accepted", world.replies[asked]
    assert sorted(len(agent.host.vms) for agent in world.agents.values()) == [0, 0, 3]
    assert world.agents["n1"].host.vms == {}
