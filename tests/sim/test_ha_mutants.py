"""Each guard of high availability, taken away, is missed: by the scenario that is named for it, or by a search (`make mutants`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libs.world import play, scenario
from libs.world.play import Outcome
from libs.world.storms import Storm, begun
from libs.world.story import read
from libs.world.tree import Shape, grown
from tests.sim.ha_mutants import ELSEWHERE, MUTANTS, Patch

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


def test_every_guard_that_is_tested_elsewhere_says_where() -> None:
    for guard, where in ELSEWHERE.items():
        assert (Path(__file__).parents[2] / where).is_file(), f"{guard}: {where}"
