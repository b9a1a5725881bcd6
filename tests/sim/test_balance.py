"""The rebalancer over the real services and simulated nodes: what it proposes follows from the log and from who is heard."""

from __future__ import annotations

from collections import Counter

from libs.world.world import World
from proto.balance import ApplyBalance, BalanceShown, Mode, Rules, SetBalance
from proto.compute import CordonNode, DefineVm, PauseVm, StartVm, StopVm
from proto.machine import Allotment

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
    assert found.plan.score > found.rules.threshold > found.plan.planned
    assert {(m.origin, m.target) for m in found.plan.moves} == {("n1", "n2"), ("n1", "n3")}
    assert all(m.gain > 0 and m.reason for m in found.plan.moves)


def test_the_views_say_the_same_after_a_crash() -> None:
    world = crowded()
    before = shown(world)
    world.services["compute"].crash()
    world.services["compute"].begin()
    world.run(3)
    assert shown(world) == before


def test_a_cordoned_node_takes_nobody_and_a_dead_one_no_part() -> None:
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


# --- it acts ---------------------------------------------------------------------------------------------------------

QUICK = Rules(hold_s=5, batch_rest_s=5)


def places(world: World) -> Counter[str]:
    host = world.services["compute"].host
    assert host is not None
    return Counter(guest.node for guest in host.views.balance.guests.values())


def decided(world: World, kind: str) -> int:
    return sum(recorded.type == kind for recorded in world.log.read_all_now(0, 10**6))


def test_in_mode_advise_nothing_is_recorded() -> None:
    world = crowded()
    world.run(60)
    assert not [r for r in world.log.read_all_now(0, 10**6) if r.stream == "balance-cluster"]


def test_in_mode_auto_a_crowded_cluster_is_evened_out_and_then_left_alone() -> None:
    world = crowded()
    world.ask("compute", "balance-cluster", SetBalance(mode=Mode.AUTO, rules=QUICK))
    world.run(240)
    assert places(world) == {"n1": 2, "n2": 2, "n3": 2}
    moves = decided(world, "move_planned")
    assert moves == decided(world, "move_ended") == decided(world, "vm_migration_ended") == VMS - 2
    assert decided(world, "imbalance_ended") == 1
    world.run(600)
    assert decided(world, "move_planned") == moves


def test_a_batch_that_a_person_applies_is_carried_out_and_no_more() -> None:
    world = crowded()
    id = world.ask("compute", "balance-cluster", ApplyBalance())
    world.run(60)
    assert world.replies[id].status == "accepted"
    assert places(world) == {"n1": VMS - 2, "n2": 1, "n3": 1}
    assert decided(world, "move_ended") == 2


def test_control_processes_that_die_on_the_way_lose_no_move() -> None:
    world = crowded(3)
    world.ask("compute", "balance-cluster", SetBalance(mode=Mode.AUTO, rules=QUICK))
    for _ in range(12):
        world.run(10)
        world.services["compute"].crash()
        world.run(1)
        world.services["compute"].begin()
    world.run(240)
    assert places(world) == {"n1": 2, "n2": 2, "n3": 2}
    assert decided(world, "move_planned") == decided(world, "move_ended")


def test_a_group_moves_as_a_whole_one_after_the_other() -> None:
    world = World(5)
    world.begin()
    world.run(6)
    for i in range(4):
        allotment = Allotment(together="db") if i < 3 else Allotment(pins=(0,))
        world.ask("compute", f"vm-v{i}", DefineVm(vm=f"v{i}", vcpus=2, memory_mib=256, allotment=allotment))
        world.run(2)
        world.ask("compute", f"vm-v{i}", StartVm(vm=f"v{i}", node="n1"))
        world.run(10)
    assert places(world) == {"n1": 4}
    rules = Rules(at_once_max=1, gain_min=0.01)
    world.ask("compute", "balance-cluster", SetBalance(mode=Mode.ADVISE, rules=rules))
    id = world.ask("compute", "balance-cluster", ApplyBalance())
    world.run(120)
    assert world.replies[id].status == "accepted", world.replies[id]
    assert sorted(places(world).values()) == [1, 3]
    assert decided(world, "move_ended") == decided(world, "vm_migration_ended") == 3
    assert not shown(world).moving


def test_a_move_that_is_refused_is_over_at_once() -> None:
    """VMs are to be paused, and the agent that would do it has just died: until that is settled, none of them moves."""
    world = crowded()
    world.agents["n1"].crash()
    for i in range(VMS):
        world.ask("compute", f"vm-v{i}", PauseVm(vm=f"v{i}"))
    world.run(1)
    id = world.ask("compute", "balance-cluster", ApplyBalance())
    world.run(2)
    assert world.replies[id].status == "accepted"
    assert decided(world, "move_planned") == decided(world, "move_ended") == decided(world, "vm_migration_refused") == 2
    assert not shown(world).moving and places(world) == {"n1": VMS}
