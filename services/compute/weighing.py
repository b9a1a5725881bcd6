"""Recorded choices weighed again: what today's weights make of the terms that were recorded with each candidate. Pure.

A choice of node is made before its command is recorded, as it needs what the views know. So that a replay sees a changed policy
at all, it has the candidates weighed again, and where they come in another order, that is what is decided on. Where the order
stays, the choice is as it was recorded, scores included: nothing is decided otherwise.

Terms are recorded in millionths, so a score that is as near to the recorded one as that lets it be is taken for the same.
Of terms that the recorded policy did not weigh, fit and room follow from what would be in use; the others are taken for 0. What
filters removed is not looked at again: of those nodes no terms were recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from msgspec.structs import replace

from proto.compute import LoseVm, NoteMemory, Placement, RestartVm, StartVm
from proto.migration import MigrateVm
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
    weights, candidates = _today(choice.policy), choice.candidates
    if weights is None or len(candidates) < 2:
        return choice
    weighs, off = _weighs(weights)
    scores = [_score(one.terms, weighs) for one in candidates]
    others = [abs(score - one.score) > off for score, one in zip(scores, candidates, strict=True)]
    if not any(others):
        return choice
    again = [
        replace(one, score=round(score * 1e6) / 1e6) if other else one
        for one, score, other in zip(candidates, scores, others, strict=True)
    ]
    again.sort(key=lambda one: (-one.score, one.node))
    if [one.node for one in again] == [one.node for one in candidates]:
        return choice
    return replace(choice, policy=weights.name, candidates=tuple(again))


def _today(policy: str) -> Weights | None:
    """policy: SET-VERSION"""
    name, _, _ = policy.rpartition("-")
    return next((weights for which, weights in WEIGHTS.items() if which.value == name), None)


def _weighs(weights: Weights) -> tuple[list[tuple[str, float]], float]:
    """(each term that weighs anything, with its weight; how far a score may be off by what was rounded)"""
    weighs = [(term, weight) for term in TERMS if (weight := float(getattr(weights, term)))]
    return weighs, OFF + OFF * sum(abs(weight) for _, weight in weighs)


def _score(terms: Mapping[str, float], weighs: Sequence[tuple[str, float]]) -> float:
    score = 0.0
    for term, weight in weighs:
        value = terms.get(term)
        score += weight * (_derived(terms, term) if value is None else value)
    return score


def _derived(terms: Mapping[str, float], term: str) -> float:
    """One that was not recorded: as policy.py makes it of the parts that would be in use."""
    if term not in ("fit", "room"):
        return 0.0
    cpu, memory = terms.get("cpu_used", 0.0), terms.get("memory_used", 0.0)
    if term == "room":
        return 1.0 - sqrt((cpu * cpu + memory * memory) / 2)
    return 1.0 - sqrt(((1.0 - cpu) ** 2 + (1.0 - memory) ** 2) / 2)
