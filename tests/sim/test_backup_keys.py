"""Encrypted backups in the world: nodes are asked that have the key and others, and the key goes away in between."""

from __future__ import annotations

from typing import Any

from libs.world import play
from libs.world.befall.backups import KEY
from libs.world.story import Step, Story
from libs.world.world import World

VM = "vm-0"
BOTH = (Step("backup_key", 0.1, "n1"), Step("backup_key", 0.1, "n2"))
TAKEN = (Step("backup", 0.5, VM, more={"encrypt": True}), Step("guest_write", 0.7, VM))
GONE = (Step("stop", 1.2, VM), Step("delete", 1.6, VM))
LATER = tuple(Step("guest_write", 3.0 + n * 0.5, VM) for n in range(8))


def played(*steps: Step, peace_s: float = 20.0, seconds: float = 8.0) -> World:
    story = Story(seed=1, nodes=2, vms=1, seconds=seconds, peace_s=peace_s, steps=tuple(sorted(steps, key=lambda step: step.at)))
    outcome = play.play(story)
    assert not outcome.fault, outcome.fault
    return outcome.world


def of(world: World, kind: str) -> list[Any]:
    rows = (row for row in world.log.read_all_now(world.oldest, 10**6) if row.type == kind)
    return [world.checker.event(row) for row in rows]


def test_it_is_taken_and_recovered_from_where_the_key_is() -> None:
    world = played(*BOTH, *TAKEN, Step("backup", 0.9, VM, more={"encrypt": True}), *GONE, Step("recover", 2.2, VM), *LATER)
    assert [(one.done.kind, one.done.key) for one in of(world, "backup_taken")] == [("full", KEY), ("incremental", KEY)]
    (asked,) = of(world, "recovery_requested")
    assert {layer.origin.key for disk in asked.disks for layer in disk.layers} == {KEY}
    assert [one.end for one in of(world, "recovery_ended")] == ["independent"]


def test_without_a_key_none_is_taken() -> None:
    world = played(*TAKEN)
    assert of(world, "backup_requested") == [] and of(world, "backup_failed") == []


def test_only_the_node_that_has_the_key_is_chosen() -> None:
    """Its VM runs wherever it likes; at rest it is read, and made anew, where the key is."""
    for name in ("n1", "n2"):
        steps = (Step("stop", 0.3, VM), Step("backup", 0.8, VM, more={"encrypt": True}), Step("delete", 1.2, VM))
        world = played(Step("backup_key", 0.1, name), *steps, Step("recover", 2.2, VM), *LATER)
        assert [one.node for one in of(world, "backup_requested")] == [name]
        starts = [one for one in of(world, "vm_start_requested") if one.generation > 1]
        assert starts and {one.node for one in starts} == {name}


def test_a_key_that_is_let_go_in_between_is_waited_for() -> None:
    """The VM is not made anew while nobody can read its backup; once a node has the key again it can be."""
    taken = (*(Step(step.do, step.at, step.who, 1.5) for step in BOTH), *TAKEN, *GONE)
    world = played(*taken, Step("recover", 2.2, VM))
    assert of(world, "recovery_requested") == [], "no node has the key by then"
    world = played(*taken, Step("recover", 2.2, VM), Step("backup_key", 3.0, "n2"), Step("recover", 3.6, VM), *LATER)
    assert [one.end for one in of(world, "recovery_ended")] == ["independent"]


def test_a_key_that_goes_as_the_vm_comes_home_holds_nothing_up() -> None:
    """Its process has opened what it needs; one that is started again there is refused, and goes on once the key is back."""
    given = tuple(Step(step.do, step.at, step.who, 2.6) for step in BOTH)
    again = tuple(Step(step.do, 5.0, step.who) for step in BOTH)
    world = played(*given, *TAKEN, *GONE, Step("recover", 2.2, VM), *again, *LATER)
    assert [one.end for one in of(world, "recovery_ended")] == ["independent"]


def test_what_stands_on_a_backup_is_written_anew_by_a_node_with_the_key() -> None:
    second = Step("backup", 0.9, VM, more={"encrypt": True})
    world = played(*BOTH, *TAKEN, second, Step("backup_delete", 1.5, VM, more={"age": 1}))
    assert [sorted(one.heirs) for one in of(world, "backup_deleted")] == [[of(world, "backup_taken")[1].backup]]
    gone = tuple(Step(step.do, step.at, step.who, 1.2) for step in BOTH)
    world = played(*gone, *TAKEN, second, Step("backup_delete", 2.0, VM, more={"age": 1}))
    assert of(world, "backup_delete_requested") == [] and of(world, "backup_deleted") == []
