"""Recorded choices weighed again: what today's weights make of the terms that were recorded with each candidate. Pure.

A choice of node is made before its command is recorded, as it needs what the views know. So that a replay sees a changed policy
at all, it has the candidates weighed again, and where they come in another order, that is what is decided on. Where the order
stays, the choice is as it was recorded, scores included: nothing is decided otherwise.

Terms are recorded in millionths, so a score that is as near to the recorded one as that lets it be is taken for the same.
Of terms that the recorded policy did not weigh, fit and room follow from what would be in use; the others are taken for 0. What
filters removed is not looked at again: of those nodes no terms were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any, NamedTuple

from msgspec.structs import replace

from proto.compute import Candidate, LoseVm, NoteMemory, Placement, RestartVm, StartVm
from proto.migration import MigrateVm
from proto.placement import WeightSet
from services.compute.policy import TERMS, WEIGHTS, Weights

CHOOSING = frozenset((StartVm, RestartVm, MigrateVm, NoteMemory, LoseVm))
"""commands that have a choice with them"""

OFF = 1e-6
"""how far a term in whole millionths, or one that is made of such, is off at most; a score, too"""


def weigh(command: Any) -> Any:
    """The same command, where nothing comes out otherwise."""
    if type(command) not in CHOOSING or command.choice is None:
        return command
    choice = weighed(command.choice)
    return command if choice is command.choice else replace(command, choice=choice)


def weighed(choice: Placement) -> Placement:
    """By today's weights of the set that the recorded policy names; as it is where there is no such set any more."""
    rule, candidates = RULES.get(choice.policy.rpartition("-")[0]), choice.candidates
    if rule is None or len(candidates) < 2 or all(_agrees(one, rule) for one in candidates):
        return choice
    again = [one if _agrees(one, rule) else replace(one, score=round(_score(one.terms, rule) * 1e6) / 1e6) for one in candidates]
    again.sort(key=lambda one: (-one.score, one.node))
    if [one.node for one in again] == [one.node for one in candidates]:
        return choice
    return replace(choice, policy=rule.name, candidates=tuple(again))


class _Rule(NamedTuple):
    """A set of weights: its name today, the terms that weigh anything, and how far a score may be off by what was rounded."""

    name: str
    weighs: tuple[tuple[str, float], ...]
    off: float


def rules(sets: Mapping[WeightSet, Weights]) -> dict[str, _Rule]:
    """By the set's name: a recorded policy is SET-VERSION."""
    found = {}
    for which, weights in sets.items():
        weighs = tuple((term, weight) for term in TERMS if (weight := float(getattr(weights, term))))
        found[which.value] = _Rule(weights.name, weighs, OFF + OFF * sum(abs(weight) for _, weight in weighs))
    return found


RULES = rules(WEIGHTS)


def _agrees(one: Candidate, rule: _Rule) -> bool:
    return -rule.off <= _score(one.terms, rule) - one.score <= rule.off


def _score(terms: Mapping[str, float], rule: _Rule) -> float:
    score = 0.0
    for term, weight in rule.weighs:
        if term in terms:
            score += weight * terms[term]
        elif term in DERIVED:
            score += weight * DERIVED[term](terms.get("cpu_used", 0.0), terms.get("memory_used", 0.0))
    return score


DERIVED: dict[str, Callable[[float, float], float]] = {
    "fit": lambda cpu, memory: 1.0 - sqrt(((1.0 - cpu) ** 2 + (1.0 - memory) ** 2) / 2),
    "room": lambda cpu, memory: 1.0 - sqrt((cpu * cpu + memory * memory) / 2),
}
"""Terms that are known where they were not recorded: as policy.py makes them of the parts that would be in use."""
