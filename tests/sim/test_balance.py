"""The rebalancer over the real services and simulated nodes: what it proposes follows from the log and from who is heard."""

from __future__ import annotations

from libs.world.world import World
from proto.balance import BalanceShown
from proto.compute import CordonNode, DefineVm, StartVm, StopVm

VMS = 6


def crowded(seed: int = 1) -> World:
    """Three nodes; six VMs of two vCPUs, all on n1."""
    world = World(seed)
    world.begin()
    world.run(6)
    for i in range(VMS):
        define = DefineVm(vm=f"v{i}", vcpus=2, memory_mib=256)
        world.ask("compute", f"vm-v{i}", define)
    world.run(2)
    for i in range(VMS):
        world.ask("compute", f"vm-v{i}", StartVm(vm=f"v{i}", node="n1"))
    world.run(30)
    return world


def shown(world: World) -> BalanceShown:
    host = world.services["compute"].host
    assert host is not None
    answer = host.service.query("balance", b"", host.states(), host.views)
    assert isinstance(answer, BalanceShown)
    return answer


def test_a_crowded_node_is_seen_and_moves_are_proposed() -> None:
    found = shown(crowded())
    assert (found.nodes, found.vms) == (3, VMS)
    assert found.plan.score > found.threshold > found.plan.planned
    assert {(m.origin, m.target) for m in found.plan.moves} == {("n1", "n2"), ("n1", "n3")}
    assert all(m.gain > 0 and m.reason for m in found.plan.moves)


def test_the_views_say_the_same_after_a_crash() -> None:
    world = crowded()
    before = shown(world)
    world.services["compute"].crash()
    world.services["compute"].begin()
    world.run(3)
    assert shown(world) == before


def test_a_cordoned_and_a_dead_node_take_no_part() -> None:
    world = crowded()
    world.ask("compute", "node-n2", CordonNode(node="n2"))
    world.run(2)
    assert {m.target for m in shown(world).plan.moves} == {"n3"}
    world.agents["n3"].crash()
    world.run(20)
    assert (shown(world).nodes, shown(world).plan.moves) == (1, ())


def test_what_is_being_stopped_is_no_longer_moved() -> None:
    world = crowded()
    for i in range(VMS - 1):
        world.ask("compute", f"vm-v{i}", StopVm(vm=f"v{i}", deadline_s=0))
    world.run(20)
    found = shown(world)
    assert found.vms == 1
    assert found.plan.moves == ()
