"""Recorded choices weighed again: what today's weights make of the terms that were recorded with each candidate. Pure.

A choice of node is made before its command is recorded, as it needs what the views know. So that a replay sees a changed policy
at all, it has the candidates weighed again, and where they come in another order, that is what is decided on. Where the order
stays, the choice is as it was recorded, scores included: nothing is decided otherwise.

Terms are recorded in millionths, so a score that is as near to the recorded one as that lets it be is taken for the same.
Of terms that the recorded policy did not weigh, fit and room follow from what would be in use; the others are taken for 0. What
filters removed is not looked at again: of those nodes no terms were recorded.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

from msgspec.structs import replace

from proto.compute import Candidate, LoseVm, NoteMemory, Placement, RestartVm, StartVm
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
    weights = _today(choice.policy)
    if weights is None or len(choice.candidates) < 2:
        return choice
    best = sorted((_weighed(one, weights) for one in choice.candidates), key=lambda one: (-one.score, one.node))
    if [one.node for one in best] == [one.node for one in choice.candidates]:
        return choice
    return replace(choice, policy=weights.name, candidates=tuple(best))


def _today(policy: str) -> Weights | None:
    """policy: SET-VERSION"""
    name, _, _ = policy.rpartition("-")
    return next((weights for which, weights in WEIGHTS.items() if which.value == name), None)


def _weighed(recorded: Candidate, weights: Weights) -> Candidate:
    values = _derived(recorded) | recorded.terms
    score, off = 0.0, OFF
    for term in TERMS:
        weight: float = getattr(weights, term)
        score += weight * values.get(term, 0.0)
        off += abs(weight) * OFF
    if abs(score - recorded.score) <= off:
        return recorded
    return replace(recorded, score=round(score * 1e6) / 1e6)


def _derived(recorded: Candidate) -> dict[str, float]:
    """As policy.py makes them, of the parts that would be in use."""
    cpu, memory = (recorded.terms.get(part, 0.0) for part in ("cpu_used", "memory_used"))
    return {
        "fit": 1.0 - sqrt(((1.0 - cpu) ** 2 + (1.0 - memory) ** 2) / 2),
        "room": 1.0 - sqrt((cpu**2 + memory**2) / 2),
    }
