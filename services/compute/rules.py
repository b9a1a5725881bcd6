"""What is set for placement is changed: which weights count, and how far CPUs may be over-allocated. Pure.

A limit that would be broken by what VMs were promised already is refused, with the nodes and their numbers: it would keep nothing
away that is there, and would only seem to hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from proto.cluster import ClassChange, NodeUse, PlacementSet, Refusal, SetPlacement
from proto.machine import Priority
from proto.placement import ClassRules, PlacementRules, WeightSet

NAMES_MAX = 5
"""nodes named in one sentence"""


def change(command: SetPlacement, rules: PlacementRules) -> Sequence[PlacementSet]:
    """All of it or nothing. Raises Refused: NODE_UNKNOWN, PROMISED_MORE."""
    known = {use.node for use in command.uses}
    if strange := sorted(node for node, ratio in command.nodes.items() if ratio and node not in known):
        named = ", ".join(strange[:NAMES_MAX])
        raise Refused(Refusal.NODE_UNKNOWN, f"no node that has said hello is named {named}", "see `node ls`")
    merged = PlacementRules(
        weights=command.weights or rules.weights,
        vcpus_per_pcpu=command.vcpus_per_pcpu or rules.vcpus_per_pcpu,
        classes={p: r for p, r in sorted(_classes(command, rules).items()) if r != ClassRules()},
        nodes={node: ratio for node, ratio in sorted((rules.nodes | command.nodes).items()) if ratio},
    )
    if merged == rules:
        return ()
    broken = [use for use in command.uses if _broken(use, rules, merged)]
    if broken:
        named = ", ".join(_said(use, merged) for use in broken[:NAMES_MAX])
        more = f", and {len(broken) - NAMES_MAX} more nodes" if len(broken) > NAMES_MAX else ""
        worst = max(use.vcpus / max(0.01, use.pcpus) for use in broken)
        raise Refused(
            Refusal.PROMISED_MORE,
            f"more is promised already: {named}{more}",
            f"move or stop VMs there first, or allow at least {worst:.2f} vCPUs per pCPU",
        )
    return [PlacementSet(rules=merged)]


def _classes(command: SetPlacement, rules: PlacementRules) -> dict[Priority, ClassRules]:
    changed = {p: _class(change, rules.classes.get(p, ClassRules())) for p, change in command.classes.items()}
    return {**rules.classes, **changed}


def _class(change: ClassChange, old: ClassRules) -> ClassRules:
    weights = old.weights if change.weights is None else WeightSet(change.weights) if change.weights else None
    ratio = old.vcpus_per_pcpu if change.vcpus_per_pcpu is None else change.vcpus_per_pcpu
    return ClassRules(weights=weights, vcpus_per_pcpu=ratio)


def most(use: NodeUse, rules: PlacementRules) -> int:
    """vCPUs that may be promised there, as policy.vcpus_max has it."""
    return max(1, int(use.pcpus * rules.ratio_on(use.node, set(use.classes))))


def _broken(use: NodeUse, before: PlacementRules, after: PlacementRules) -> bool:
    """What was broken before is not refused for it."""
    return use.vcpus > most(use, after) < most(use, before)


def _said(use: NodeUse, rules: PlacementRules) -> str:
    return f"{use.node} has {use.vcpus} vCPUs on {use.pcpus:g} pCPUs, and {most(use, rules)} would be allowed"
