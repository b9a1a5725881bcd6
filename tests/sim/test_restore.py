"""A database restored from a backup, under faults: what was decided since is forgotten, agents and VMs run on. The storage's own
lock is taken away: generations, incarnations and the greeting of all nodes alone must keep one copy of each VM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from libs.common.host.delivered import live
from libs.common.messages import Delivered, Recorded, encode, floor_of
from libs.world.faults import Storm, story
from libs.world.world import World
from proto.compute import DefineVm, DeleteVm, StartVm, StopVm
from proto.machine import DiskWish
from services.compute import model, reports, restored, starting, views
from services.node import model as agent

BATCH = 10
STORM = Storm(commands=60)


@pytest.mark.parametrize("first", range(2000, 2040, BATCH))
def test_restored_databases_keep_every_invariant(first: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(first, first + BATCH):
        world = story(seed, STORM, locking=False, restores=2)
        seen.update(recorded.type for recorded in world.log.read_all_now(0, 10**6))
    assert seen["incarnation_began"] and seen["vm_found"], "the schedules show nothing"


def test_one_seed_with_a_restore_is_one_story() -> None:
    first, second = story(2000, STORM, restores=2), story(2000, STORM, restores=2)
    assert first.log.read_all_now(0, 10**6) == second.log.read_all_now(0, 10**6)


# --- each guard, taken away, is missed -------------------------------------------------------------------------------


def generations_have_no_floor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(restored, "next_generation", lambda vm, incarnation: vm.generation + 1)


def nobody_waits_for_the_nodes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(views.Views, "unheard", lambda *_: ())


def greetings_are_answered_unheard(patch: pytest.MonkeyPatch) -> None:
    """An agent that says that it told all before anybody heard it."""

    def greeted(self: agent.Agent) -> list[Any]:
        greeting, self.greeting = self.greeting, 0
        self.met = max(self.met, greeting)
        return [agent.Greet(greeting)] if greeting else []

    patch.setattr(agent.Agent, "_greeted", greeted)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    generations_have_no_floor,
    nobody_waits_for_the_nodes,
    greetings_are_answered_unheard,
]
SEEDS_PER_MUTANT_MAX = 120


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises((AssertionError, ValueError)):
            for seed in range(SEEDS_PER_MUTANT_MAX):
                story(seed, Storm(commands=80, faults=20), locking=False, restores=3)


# --- one start, cut in the middle ------------------------------------------------------------------------------------


def restored_while_reserving(seed: int = 1) -> World:
    """VM `a` is being started on n1 when the backup is made. Then it runs, is stopped, and runs on n3; then all that is lost."""
    world = World(seed=seed)
    world.pool.locking = False
    world.begin()
    world.run(6.0)
    world.ask("compute", "vm-a", DefineVm(vm="a", disks=(DiskWish(image="tiny"),)))
    world.run(1.0)
    world.ask("compute", "vm-a", StartVm(vm="a"))
    world.run(3.0)
    backup = next(r.position for r in world.log.read_all_now(0, 10**6) if r.type == "vm_start_requested")
    assert list(world.agents["n1"].host.vms) == ["a"]
    world.ask("compute", "vm-a", StopVm(vm="a", deadline_s=0))
    world.run(3.0)
    world.ask("compute", "vm-a", StartVm(vm="a", node="n3"))
    world.run(3.0)
    assert list(world.agents["n3"].host.vms) == ["a"]
    world.restore(backup)
    return world


def test_a_start_cut_in_the_middle_is_ended_and_what_runs_is_found() -> None:
    world = restored_while_reserving()
    world.run(20.0)
    vm = world.services["compute"].host.states()["vm-a"]  # type: ignore[union-attr]
    assert (vm.word, vm.node, vm.generation) == ("running", "n3", 2)
    assert [d.name for d in vm.spec.disks] == ["disk0"]
    world.checker.settled()
    world.ask("compute", "vm-a", StopVm(vm="a", deadline_s=0))
    world.run(3.0)
    world.ask("compute", "vm-a", StartVm(vm="a", node="n2"))
    world.run(3.0)
    vm = world.services["compute"].host.states()["vm-a"]  # type: ignore[union-attr]
    assert (vm.word, vm.node, vm.generation) == ("running", "n2", floor_of(2) + 1)
    world.checker.settled()


def test_a_start_that_is_gone_on_with_makes_a_second_copy() -> None:
    """The mutant of the test above: nothing is ended, and a failure leads to the next attempt."""
    with pytest.MonkeyPatch.context() as patch:
        blind = vars(restored) | {"abandon": lambda *_: (), "past": lambda *_: False}
        for module in (model, starting, reports):
            patch.setattr(module, "restored", SimpleNamespace(**blind))
        with pytest.raises(AssertionError, match="S1"):
            for seed in range(1, 20):  # n3 may have ended the older one before n2 begins
                restored_while_reserving(seed).run(20.0)


def test_nothing_is_started_while_a_node_is_away() -> None:
    world = restored_while_reserving()
    world.net.cut.add("n3")
    world.run(10.0)
    asked = world.ask("compute", "vm-a", StartVm(vm="a"))
    world.run(3.0)
    reply = world.replies[asked]
    assert (reply.reason, "n3" in reply.sentence) == ("RECONCILING", True), reply
    assert "n1" not in reply.sentence
    deleted = world.ask("compute", "vm-a", DeleteVm(vm="a"))
    world.run(3.0)
    assert world.replies[deleted].reason == "RECONCILING"
    world.net.cut.clear()
    world.run(20.0)
    world.checker.settled()


def test_events_of_a_lost_timeline_are_not_taken_for_the_next() -> None:
    """Published before the restore, and as late as can be: its position is just the next that the restored log has to give."""
    world = restored_while_reserving()
    lost = world.log.head_now().position + 1
    process = world.services["memory"]
    world.run(2.5)
    assert process.host is not None
    following = process.host.reactions.next_position
    stale = Recorded(following, "ledger-n1", 99, "capacity_set", 1, 0, b"", b"")
    process.delivered(Delivered(1, stale))
    assert process.host.reactions.next_position == following >= lost
    assert live([encode(Delivered(1, stale)), encode(Delivered(2, stale))], 2, following) == [stale]
