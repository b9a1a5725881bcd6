"""Each node has a pool of its own, so that guests take their disks along: under generated faults, no guest is ever given other
disks than those that it has run with (S13), and in the end there is one file of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from libs.world.faults import Storm, story
from proto.io import DevicesGranted, DevicesReturned
from services.compute import choosing
from services.io import evolving, model
from services.io.states import Granted, more_unwanted
from services.node.drivers.simpool import SimPool

BATCH = 10
STORM = Storm(commands=80, faults=20, migrations=24)


@pytest.mark.parametrize("first", range(5300, 5330, BATCH))
def test_disks_that_move_along_are_always_those_of_their_guest(first: int) -> None:
    types: Counter[str] = Counter()
    for seed in range(first, first + BATCH):
        world = story(seed, STORM, apart=True)
        types.update(recorded.type for recorded in world.log.read_all_now(0, 10**6))
        files = Counter(key.split(".")[0] for pool in world.pools.values() for key in pool.disks)
        assert all(count == 1 for count in files.values()), (seed, files)
    assert types["vm_migration_ended"] > 5 and types["disk_files_removed"] > 5, "the schedules show nothing"


def test_a_restored_log_takes_over_the_disks_that_its_guests_run_with() -> None:
    types: Counter[str] = Counter()
    for seed in range(6300, 6320):
        world = story(seed, STORM, apart=True, locking=False, restores=2)
        types.update(recorded.type for recorded in world.log.read_all_now(0, 10**6))
    assert types["incarnation_began"] and types["vm_found"], "the schedules show nothing"


# --- each guard, taken away, is missed -------------------------------------------------------------------------------


def nobody_asks_where_disks_are(patch: pytest.MonkeyPatch) -> None:
    """Neither placement nor io, and an agent makes what is missing: any one of the three is enough."""
    patch.setattr(choosing, "needed", lambda disks, home: tuple(sorted({disk.pool for disk in disks})))
    patch.setattr(model, "_out_of_reach", lambda disks, command: "")
    patch.setattr(SimPool, "find", lambda pool, spec: None)


def disks_are_never_said_to_be_made(patch: pytest.MonkeyPatch) -> None:
    """Where placement does not look at them either."""
    patch.setattr(choosing, "needed", lambda disks, home: tuple(sorted({disk.pool for disk in disks})))
    patch.setattr(model, "_settle", lambda command, devices: ())


def what_came_along_stays_though_the_guest_did_not_come(patch: pytest.MonkeyPatch) -> None:
    real = evolving.BY_STATE[Granted, DevicesReturned]

    def returned(had: Any, event: Any, version: int) -> Any:
        return replace(real(had, event, version), disks=had.disks)

    patch.setitem(evolving.BY_STATE, (Granted, DevicesReturned), returned)


def the_old_disks_are_let_go_of_before_the_guest_has_left(patch: pytest.MonkeyPatch) -> None:
    real: Any = evolving.BY_EVENT[DevicesGranted]

    def granted(devices: Any, event: Any, version: int) -> Any:
        after = real(devices, event, version)
        return replace(after, before=(), unwanted=more_unwanted(after, after.source, after.before, version))

    patch.setitem(evolving.BY_EVENT, DevicesGranted, granted)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    nobody_asks_where_disks_are,
    disks_are_never_said_to_be_made,
    what_came_along_stays_though_the_guest_did_not_come,
    the_old_disks_are_let_go_of_before_the_guest_has_left,
]
SEEDS_PER_MUTANT_MAX = 40


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises((AssertionError, KeyError), match=r"S13|L1|default/vm"):
            for seed in range(5300, 5300 + SEEDS_PER_MUTANT_MAX):
                story(seed, STORM, apart=True)
