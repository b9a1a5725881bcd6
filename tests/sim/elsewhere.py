"""Guards of high availability that the world cannot miss, each with how it is taken away and the test that misses it then
(test_ha_mutants.py runs that test without the guard, in a process of its own, and wants it red).

They are about real processes and files; or they stand behind another guard of the world that this one cannot get past: a lease that
ended by its own clock ended before anybody could conclude so, and a node without a lease starts nothing, whatever its records say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from libs.lease import holder
from services.node import model as agent
from services.node.drivers.qemu import devices
from services.node.drivers.qemu import lease as record
from services.node.effects import Kept, Persist

type Patch = pytest.MonkeyPatch

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """test: a node id of pytest, which is green with the guard."""

    taken_away: Callable[[Patch], None]
    test: str

    @property
    def name(self) -> str:
        return self.taken_away.__name__


def a_late_acknowledgement_revives(patch: Patch) -> None:
    """A lease that has ended begins again by a grant of its own epoch."""
    patch.setattr(holder, "begins", lambda epoch, ended, running: True)


def what_was_paused_goes_on_without_learning(patch: Patch) -> None:
    patch.setattr(holder, "must_learn", lambda: False)


def a_node_that_woke_believes_a_grant_of_before(patch: Patch) -> None:
    """It serves before it has learnt."""
    patch.setattr(holder, "revives", lambda sent_us, woke_us: True)


def an_older_term_is_believed(patch: Patch) -> None:
    patch.setattr(holder, "of_the_past", lambda term, seen: False)


def a_generation_is_kept_after_acting(patch: Patch) -> None:
    """The agent acts at once; that it has begun to is written when it is done with that."""
    real = agent.Agent.on_order

    def on_order(self: agent.Agent, ref: object, order: Any, now_us: int) -> Any:
        out = real(self, ref, order, now_us)
        last: list[Any] = []
        while any(isinstance(effect, Persist) for effect in out):
            now = [effect for effect in out if not isinstance(effect, Persist)]
            written: list[Kept] = [effect.kept for effect in out if isinstance(effect, Persist)]
            last += written
            out = [*now, *(effect for kept in written for effect in self.on_persisted(kept))]
        return [*out, *map(Persist, last)]

    patch.setattr(agent.Agent, "on_order", on_order)


def a_lease_record_is_written_without_looking(patch: Patch) -> None:
    """Without compare-and-swap."""
    patch.setattr(record, "_judge", lambda there, wanted: None)


def the_hosts_cache_may_keep_what_is_written(patch: Patch) -> None:
    """Of a disk in a shared pool."""
    real = devices._file
    patch.setattr(devices, "_file", lambda name, path, **more: real(name, path, **{**more, "direct": False}))


ANY_START = """
import runpy, sys
sys.path.insert(0, {root!r})
from services.watchdog import table
class Any:
    def __ne__(self, other):
        return False
table.start_ticks = lambda pid: Any()
runpy.run_path({main!r}, run_name="__main__")
"""


def a_process_is_known_by_its_number_alone(patch: Patch) -> None:
    """The watchdog, a process of its own, does not ask when a process was started."""
    from tests.contract import watchdog_rig

    main = Path(mkdtemp()) / "main.py"
    main.write_text(ANY_START.format(root=str(ROOT), main=str(watchdog_rig.MAIN)))
    patch.setattr(watchdog_rig, "MAIN", main)


HOLDER = "tests/model/test_lease_holder.py::"
ELSEWHERE = (
    Elsewhere(a_late_acknowledgement_revives, HOLDER + "test_what_is_acknowledged_after_the_end_revives_nothing"),
    Elsewhere(what_was_paused_goes_on_without_learning, HOLDER + "test_what_was_raised_is_killed_and_the_rest_goes_on"),
    Elsewhere(
        a_node_that_woke_believes_a_grant_of_before,
        HOLDER + "test_woken_past_its_end_it_pauses_and_asks_and_a_fresh_grant_is_needed",
    ),
    Elsewhere(an_older_term_is_believed, HOLDER + "test_a_lower_term_is_refused"),
    Elsewhere(a_generation_is_kept_after_acting, "tests/model/test_agent.py::test_an_order_is_on_disk_before_it_is_acted_on"),
    Elsewhere(
        a_lease_record_is_written_without_looking,
        "tests/contract/test_qemu_driver.py::test_a_lease_record_that_makes_no_sense_stops_everyone",
    ),
    Elsewhere(a_process_is_known_by_its_number_alone, "tests/contract/test_watchdog.py::test_a_number_alone_is_no_process"),
    Elsewhere(the_hosts_cache_may_keep_what_is_written, "tests/model/test_argv.py::test_the_same_spec_gives_the_same_words"),
)
