"""What a recorded placement says of each node. Pure."""

from __future__ import annotations

from typing import Any

from proto.compute import VmStartRequested
from proto.migration import VmMigrationRequested
from proto.placement import Candidate, Filter, Placement, PlacementRules, Rejected, filter_of, removed_by

NODES_MAX = 8
"""nodes told in the evidence of one choice; `why-not --node` answers for each"""

_UNITS = {Filter.CPU_LIMIT: "vCPUs", Filter.CPU: "% of a pCPU", Filter.MEMORY: "MiB", Filter.HA_RESERVE: "MiB"}
_UNITS[Filter.POOL_FULL] = "MiB"
_UNITS[Filter.HEALTH] = "% health"

_WORDS = {
    Filter.SOURCE: "it is the node that the VM was to leave (the filter source)",
    Filter.LOST: "it had been declared lost, and was not back (the filter lost)",
    Filter.NEVER_REPORTED: "it joined, but its agent had not said hello (the filter never-reported)",
}


def evidence_of(event: Any) -> list[str]:
    """The choice behind a start or a move, best node first; nothing for other events."""
    if not isinstance(event, VmStartRequested | VmMigrationRequested):
        return []
    placement = event.placement
    lines = [scored(candidate) for candidate in placement.candidates[:NODES_MAX]]
    if (more := passed(placement) - len(lines)) > 0:
        lines.append(f"and {more} more nodes would have done")
    named = placement.rejected[: max(0, NODES_MAX - len(lines))]
    lines += [removed(rejected) for rejected in named]
    for filter in Filter:
        more = removed_by(placement, filter) - sum(r.filter is filter for r in named)
        if more > 0:
            lines.append(f"and {more} more removed by the filter {filter}")
    return lines


def passed(placement: Placement) -> int:
    return max(placement.passed, len(placement.candidates))


def scored(candidate: Candidate) -> str:
    terms = ", ".join(f"{name} {value:g}" for name, value in candidate.terms.items())
    return f"{candidate.node}: score {candidate.score:g}" + (f" ({terms})" if terms else "")


def removed(rejected: Rejected) -> str:
    text = f"{rejected.node}: removed by the filter {rejected.filter}"
    if rejected.needed:
        text += f" ({rejected.available} of {rejected.needed} {_UNITS.get(rejected.filter, 'needed')} there)"
    return text + (f": {rejected.reason}" if rejected.reason else "")


def _removed_by(node: str, filter: Filter) -> str:
    return f"{node} was no candidate: {_WORDS.get(filter, f'the filter {filter} removed it')}"


def said_rules(rules: PlacementRules) -> list[str]:
    """What is set for placement, a few words each."""
    said = [rules.weights.value, f"{rules.vcpus_per_pcpu:g} vCPUs per pCPU"]
    for priority, own in sorted(rules.classes.items()):
        said += [f"{priority}: {own.weights.value}"] if own.weights else []
        said += [f"{priority}: {own.vcpus_per_pcpu:g} vCPUs per pCPU"] if own.vcpus_per_pcpu else []
    return said + [f"{node}: {ratio:g} vCPUs per pCPU" for node, ratio in sorted(rules.nodes.items())]


def why_not_node(placement: Placement, node: str, number: int = -1) -> tuple[str, list[str]]:
    """Why that choice did not take this node: a sentence, and its evidence. The sentence is empty where it did take it.
    number: of the node, as it joined; choices in large clusters tell of most nodes by it."""
    best = placement.candidates[0] if placement.candidates else None
    if best is not None and best.node == node:
        return "", [scored(best)]
    for rank, candidate in enumerate(placement.candidates, 1):
        if candidate.node == node and best is not None:
            ahead = "scored higher" if best.score > candidate.score else "scored the same, and equals are taken by name"
            said = f"{node} would have done, as choice {rank} of {passed(placement)}: {best.node} {ahead}"
            return said, [scored(best), scored(candidate), *differences(best, candidate)]
    for rejected in placement.rejected:
        if rejected.node == node:
            return _removed_by(node, rejected.filter), [removed(rejected)]
    if 0 <= number < placement.nodes and (filter := filter_of(placement, number)):
        return _removed_by(node, filter), []
    if 0 <= number < placement.nodes and passed(placement) > len(placement.candidates) and best:
        said = f"{node} would have done, but is not among the {len(placement.candidates)} best of {passed(placement)}"
        return f"{said}: {best.node} scored at least as high", [scored(c) for c in placement.candidates]
    return f"{node} was not considered: it was not known when the choice was made, or the record does not name it", []


def differences(best: Candidate, other: Candidate) -> list[str]:
    """The terms in which two candidates differ, the largest difference first."""
    names = [*best.terms, *(name for name in other.terms if name not in best.terms)]
    apart = {name: other.terms.get(name, 0.0) - best.terms.get(name, 0.0) for name in names}
    ordered = sorted((name for name in names if apart[name]), key=lambda name: -abs(apart[name]))
    return [f"{name}: {other.node} has {apart[name]:+g} against {best.node}" for name in ordered]
