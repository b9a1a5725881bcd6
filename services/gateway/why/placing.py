"""What a recorded placement says of each node. Pure."""

from __future__ import annotations

from typing import Any

from proto.compute import VmStartRequested
from proto.placement import Candidate, Placement, Rejected

NODES_MAX = 8
"""nodes told in the evidence of one choice; `why-not --node` answers for each"""

_UNITS = {"cpu": "vCPUs", "memory": "MiB"}


def evidence_of(event: Any) -> list[str]:
    """The choice behind a start, best node first; nothing for other events."""
    if not isinstance(event, VmStartRequested):
        return []
    placement = event.placement
    lines = [scored(candidate) for candidate in placement.candidates[:NODES_MAX]]
    lines += [removed(rejected) for rejected in placement.rejected[: NODES_MAX - len(lines)]]
    rest = len(placement.candidates) + len(placement.rejected) - len(lines)
    return [*lines, f"and {rest} more nodes"] if rest > 0 else lines


def scored(candidate: Candidate) -> str:
    terms = ", ".join(f"{name} {value:g}" for name, value in candidate.terms.items())
    return f"{candidate.node}: score {candidate.score:g}" + (f" ({terms})" if terms else "")


def removed(rejected: Rejected) -> str:
    text = f"{rejected.node}: removed by the filter {rejected.filter}"
    if rejected.needed:
        text += f" ({rejected.available} of {rejected.needed} {_UNITS.get(rejected.filter, 'needed')} there)"
    return text


def why_not_node(placement: Placement, node: str) -> tuple[str, list[str]]:
    """Why that choice did not take this node: a sentence, and its evidence. The sentence is empty where it did take it."""
    best = placement.candidates[0] if placement.candidates else None
    if best is not None and best.node == node:
        return "", [scored(best)]
    for rank, candidate in enumerate(placement.candidates, 1):
        if candidate.node == node and best is not None:
            ahead = "scored higher" if best.score > candidate.score else "scored the same, and equals are taken by name"
            said = f"{node} would have done, as choice {rank} of {len(placement.candidates)}: {best.node} {ahead}"
            return said, [scored(best), scored(candidate), *differences(best, candidate)]
    for rejected in placement.rejected:
        if rejected.node == node:
            return f"{node} was no candidate: the filter {rejected.filter} removed it", [removed(rejected)]
    return f"{node} was not considered: it was not known when the choice was made, or the record does not name it", []


def differences(best: Candidate, other: Candidate) -> list[str]:
    """The terms in which two candidates differ, the largest difference first."""
    names = [*best.terms, *(name for name in other.terms if name not in best.terms)]
    apart = {name: other.terms.get(name, 0.0) - best.terms.get(name, 0.0) for name in names}
    ordered = sorted((name for name in names if apart[name]), key=lambda name: -abs(apart[name]))
    return [f"{name}: {other.node} has {apart[name]:+g} against {best.node}" for name in ordered]
