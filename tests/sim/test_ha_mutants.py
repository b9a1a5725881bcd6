"""Each guard of high availability, taken away, is missed: by the scenario that is named for it, or by a search (`make mutants`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libs.world import play, scenario
from libs.world.play import Outcome
from libs.world.storms import Storm, begun
from libs.world.story import read
from libs.world.tree import Shape, grown
from tests.sim.elsewhere import ELSEWHERE, ROOT, Elsewhere
from tests.sim.ha_mutants import MUTANTS, Patch

SCENARIOS = Path(__file__).parents[1] / "scenarios"
TREES_MAX = int(os.environ.get("MUTANT_TREES", "0"))
SHAPE = Shape(settled=0)


@pytest.fixture(autouse=True)
def worlds() -> Iterator[None]:
    """A world that a mutant has prepared is no other's."""
    play.forget()
    yield
    play.forget()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """That the scenario holds with all guards is test_scenarios'. A suspicion, and what is told, may differ: what is asked for by
    its `expect`, and the invariants, say whether something is missed."""
    folder = SCENARIOS / MUTANTS[mutant]
    mutant(monkeypatch)
    outcome: Outcome = play.play(read(folder))
    assert outcome.fault or scenario.unmet(outcome.story, outcome), f"nobody missed {mutant.__name__}"


@pytest.mark.skipif(not TREES_MAX, reason="a search: make mutants")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_guard_is_missed_by_chance(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    found = (one for seed in range(TREES_MAX) for one in grown(seed, begun(seed), SHAPE, Storm(SHAPE)) if one.fault)
    fault = next(found, None)
    assert fault is not None, f"{TREES_MAX} trees did not miss it"
    print(f"{mutant.__name__}: tree {fault.story.seed}: {fault.fault}")


@pytest.fixture(scope="module")
def elsewhere() -> str:
    """What became of the tests that are named there, each without its guard, in a process of their own."""
    words = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", "-p", "tests.sim.without"]
    run = subprocess.run([*words, *(one.test for one in ELSEWHERE)], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


@pytest.mark.parametrize("one", ELSEWHERE, ids=lambda one: one.name)
def test_a_guard_that_is_taken_away_is_missed_elsewhere(one: Elsewhere, elsewhere: str) -> None:
    """Where this world cannot miss it."""
    red = any(line.startswith(f"FAILED {one.test}") for line in elsewhere.splitlines())
    assert red, f"{one.test} did not miss it: {elsewhere[-2000:]}"
