"""Live migrations under generated faults: agents and services die in the middle, nodes lose power, orders and facts are late, lost
and repeated, migrations are cancelled. The storage's own lock is taken away: orders, generations and the source's word alone must
keep one copy of each VM; no guest goes on with a memory that is older than itself, and none that was sent whole is thrown away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from libs.world.faults import Storm, story
from proto.compute import GoneCause
from proto.migration import VmMigrated
from services.compute import ending, migration
from services.node import moving
from services.node.effects import Kept

BATCH = 10
STORM = Storm(commands=80, faults=20, migrations=24)
LATE = Storm(commands=120, faults=10, migrations=36, late=0.3, twice=0.3)
"""where many are cancelled, and much that is said comes late and again"""


def seen(seeds: range, **more: Any) -> Counter[str]:
    types: Counter[str] = Counter()
    for seed in seeds:
        types.update(recorded.type for recorded in story(seed, STORM, **more).log.read_all_now(0, 10**6))
    return types


@pytest.mark.parametrize("first", range(5000, 5040, BATCH))
def test_migrations_keep_every_invariant(first: int) -> None:
    types = seen(range(first, first + BATCH), locking=False)
    assert types["vm_migration_ended"] > 5 and types["vm_migration_failed"] > 5, "the schedules show nothing"
    assert types["vm_recall_requested"]


def test_what_is_said_late_and_again_changes_nothing() -> None:
    for seed in range(5200, 5210):
        story(seed, LATE, locking=False)


@pytest.mark.parametrize("first", range(5100, 5120, BATCH))
def test_with_the_storages_lock_too_everything_settles(first: int) -> None:
    assert seen(range(first, first + BATCH))["vm_migration_ended"] > 5


@pytest.mark.parametrize("first", range(6000, 6030, BATCH))
def test_a_database_restored_in_the_middle_keeps_every_invariant(first: int) -> None:
    types = seen(range(first, first + BATCH), locking=False, restores=2)
    assert types["incarnation_began"] and types["vm_migration_requested"], "the schedules show nothing"


def test_one_seed_with_migrations_is_one_story() -> None:
    first, second = story(5000, STORM), story(5000, STORM)
    assert first.log.read_all_now(0, 10**6) == second.log.read_all_now(0, 10**6)


# --- each guard, taken away, is missed -------------------------------------------------------------------------------


def _moved(fact: Any, vm: Any) -> VmMigrated:
    return VmMigrated(
        vm=vm.id, node=vm.to, generation=vm.incoming, source=vm.node, source_generation=vm.generation
    )


def the_target_runs_before_the_source_is_gone(patch: pytest.MonkeyPatch) -> None:
    """compute takes it that the target has all once it has been asked to send."""
    real = migration.report_target

    def report_target(fact: Any, vm: Any) -> Any:
        return [_moved(fact, vm)] if vm.phase == "sending" and fact.seen == "incoming" else real(fact, vm)

    patch.setattr(migration, "report_target", report_target)


def a_source_that_says_it_was_sent_counts_as_gone(patch: pytest.MonkeyPatch) -> None:
    """The agent tells that the guest has left before its process is gone, and before it is on disk."""
    real = moving.told

    def told(fact: Any, vm: Any) -> Any:
        if vm.machine is not None and vm.machine.status == "sent" and vm.order is not None:
            fact = real(fact, vm)
            return replace(fact, seen="gone", cause=GoneCause.MIGRATED, moved_to=vm.order.incoming)
        return real(fact, vm)

    patch.setattr(moving, "told", told)


def a_source_that_crashed_counts_as_moved(patch: pytest.MonkeyPatch) -> None:
    real = migration.report_source

    def report_source(fact: Any, vm: Any) -> Any:
        ended = fact.seen in migration.ENDED and vm.phase in ("sending", "recalling") and not vm.target_gone
        return [_moved(fact, vm)] if ended else real(fact, vm)

    patch.setattr(migration, "report_source", report_source)


def a_recall_is_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    """compute gives up a migration without the source's word that it stopped sending."""
    patch.setattr(migration, "recall", lambda vm, sentence, target_gone=False: ending.failed(vm, sentence)[0])


def an_older_report_ends_a_recall(patch: pytest.MonkeyPatch) -> None:
    """The source's word is believed whatever order it is about: it may have left since."""
    real = migration.report_source
    patch.setattr(migration, "report_source", lambda fact, vm: real(replace(fact, order_version=10**9, sending=False), vm))


def what_left_is_not_on_disk(patch: pytest.MonkeyPatch) -> None:
    """The agent ends the process first; whether its guest had left is forgotten when it dies in between, or is recalled."""
    real = moving.next_step

    def next_step(vm: Any, order: Any, machine: Any, now_us: int) -> Any:
        step = real(vm, order, machine, now_us)
        return "kill" if isinstance(step, Kept) else step

    patch.setattr(moving, "next_step", next_step)


def a_target_resumes_by_itself(patch: pytest.MonkeyPatch) -> None:
    """The agent activates what came in as soon as it is there, without an order."""
    real = moving.next_step

    def next_step(vm: Any, order: Any, machine: Any, now_us: int) -> Any:
        if machine.status == "incoming":
            return "activate"
        return real(vm, order, machine, now_us)

    patch.setattr(moving, "next_step", next_step)


def what_left_may_be_recalled(patch: pytest.MonkeyPatch) -> None:
    """A newer order brings a guest back that is on disk as gone."""
    patch.setattr(moving, "has_left", lambda vm: False)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    the_target_runs_before_the_source_is_gone,
    a_source_that_says_it_was_sent_counts_as_gone,
    a_source_that_crashed_counts_as_moved,
    a_recall_is_taken_for_done,
    an_older_report_ends_a_recall,
    what_left_is_not_on_disk,
    a_target_resumes_by_itself,
    what_left_may_be_recalled,
]
SEEDS_PER_MUTANT_MAX = 60


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises((AssertionError, ValueError)):
            for seed in range(5200, 5200 + SEEDS_PER_MUTANT_MAX):
                story(seed, LATE, locking=False)
