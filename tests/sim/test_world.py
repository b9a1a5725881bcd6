"""The production steppers under generated faults. A seed that ever fails is kept here as a
test of its own, with a word on what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from libs.common.host import intake, reactions, slots
from libs.common.log import Conflict, Group, memory
from libs.world.faults import Storm, story
from services.node import model as agent
from services.node import plan

BATCH = 10


@pytest.mark.parametrize("first", range(0, 100, BATCH))
def test_a_hundred_fault_schedules_keep_every_invariant(first: int) -> None:
    for seed in range(first, first + BATCH):
        story(seed)


@pytest.mark.parametrize("first", range(1000, 1030, BATCH))
def test_without_the_storages_lock_orders_and_generations_alone_keep_one_copy(first: int) -> None:
    for seed in range(first, first + BATCH):
        story(seed, locking=False)


def test_one_seed_is_one_story() -> None:
    first, second = story(7), story(7)
    assert first.log.read_all_now(0, 10**6) == second.log.read_all_now(0, 10**6)
    assert first.net.steps == second.net.steps


# --- each guard, taken away, is missed -------------------------------------------------------------------------------


def older_orders_are_taken(patch: pytest.MonkeyPatch) -> None:
    """An agent that obeys an order that is older than one it has seen."""
    real = agent.Agent.on_order

    def on_order(self: agent.Agent, ref: object, order: Any, now_us: int) -> Any:
        vm = self.vms.get(order.vm)
        if vm is not None and vm.machine is None and order.generation >= vm.kept.generation:
            vm.kept = agent.Kept(order.vm, order.generation, 0)
            vm.order = None
        return real(self, ref, order, now_us)

    patch.setattr(agent.Agent, "on_order", on_order)


def starts_are_repeated(patch: pytest.MonkeyPatch) -> None:
    """An agent that forgets that a start under this generation was begun."""
    real = agent.Agent.on_persisted

    def on_persisted(self: agent.Agent, kept: agent.Kept) -> Any:
        effects = real(self, kept)
        self.vms[kept.vm].kept = agent.Kept(kept.vm, kept.generation, kept.version, launched=False)
        return effects

    patch.setattr(agent.Agent, "on_persisted", on_persisted)


def conflicts_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """A log that appends without looking at the expected version, written by a host that did not hear of its own commit."""
    real = memory.MemoryLog._obstacle

    def obstacle(self: memory.MemoryLog, unit: Any) -> Any:
        found = real(self, unit)
        return None if isinstance(found, Conflict) else found

    patch.setattr(memory.MemoryLog, "_obstacle", obstacle)
    patch.setattr(slots.Slots, "fold", lambda *_: None)


def repeated_ids_are_decided_again(patch: pytest.MonkeyPatch) -> None:
    """A log that forgets command ids, and a host that does too."""
    real = memory.MemoryLog._obstacle

    def obstacle(self: memory.MemoryLog, unit: Any) -> Any:
        found = real(self, unit)
        return found if isinstance(found, Conflict) else None

    patch.setattr(memory.MemoryLog, "_obstacle", obstacle)
    patch.setattr(intake, "ANSWERED_MAX", 0)


def the_position_runs_ahead(patch: pytest.MonkeyPatch) -> None:
    """A consumer position that is stored when an event is taken, before its reactions are committed."""
    real = reactions.Reactions.next_group

    def next_group(self: reactions.Reactions) -> Any:
        if self.inbox and not self.todo and not self.under_way and self._take() and self.todo:
            return Group((), self.consumer, self.taken)
        return real(self)

    patch.setattr(reactions.Reactions, "next_group", next_group)


def older_plans_are_taken(patch: pytest.MonkeyPatch) -> None:
    """An agent that schedules by a plan that is older than one it has seen."""
    real = plan.Plans.on_order

    def on_order(self: plan.Plans, ref: object, order: Any, machines: Any, now_us: int) -> Any:
        self.order, self.incarnation = None, 1
        return real(self, ref, order, machines, now_us)

    patch.setattr(plan.Plans, "on_order", on_order)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    older_orders_are_taken: 5,
    starts_are_repeated: 0,
    conflicts_are_ignored: 0,
    repeated_ids_are_decided_again: 0,
    the_position_runs_ahead: 30,
    older_plans_are_taken: 90,
}
"""each with where the search begins: just before the seed that found it when it was searched for from 0"""
LATE = Storm(commands=120, faults=12, late=0.3, twice=0.3)
"""much that is ordered comes late, and again"""
SEEDS_PER_MUTANT_MAX = 200
"""one in twenty finds the rarest"""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises((AssertionError, ValueError)):
            for seed in range(MUTANTS[mutant], MUTANTS[mutant] + SEEDS_PER_MUTANT_MAX):
                story(seed, LATE if mutant is older_plans_are_taken else Storm(commands=60, faults=20), locking=False)
