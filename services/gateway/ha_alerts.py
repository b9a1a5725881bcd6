"""What high availability wants looked at: nodes that are not trusted, paths that are gone, an observer that doubts itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from services.gateway.views.ha import HaView, Standing
from services.gateway.why.leases import help_unread


class Said(NamedTuple):
    """An alert's kind, object, since_us, sentence and remedy."""

    kind: str
    object: str
    since_us: int
    sentence: str
    remedy: str


def said(ha: HaView, names: Mapping[str, str]) -> Iterator[Said]:
    """names: of pools, by their words."""
    if ha.held:
        yield Said("ha-held", "ha/main", ha.changed_us, f"nothing is declared lost by itself: {ha.held}", ha.remedy)
    if not ha.armed:
        sentence = f"high availability is disarmed: {ha.reason}"
        yield Said("ha-disarmed", "ha/main", ha.changed_us, sentence, "asvctl ha arm, once that is done")
    for name, node in sorted(ha.nodes.items()):
        yield from _of_node(name, node, names)


def _of_node(name: str, node: Standing, names: Mapping[str, str]) -> Iterator[Said]:
    faults, about = node.faults(names), f"node/{name}"
    match node.standing:
        case "suspected" if waits := node.waits(names):
            sentence = f"{name} may be dead: {node.sentence}; {waits}"
            yield Said("node-suspected", about, node.since_us, sentence, help_unread(name))
        case "suspected":
            remedy = f"nothing yet: it is watched; if you know that it is off: asvctl ha confirm-off {name} --reason …"
            yield Said("node-suspected", about, node.since_us, f"{name} may be dead: {node.sentence}", remedy)
        case "isolated":
            then = "its protected VMs were asked for" if node.asked else "its VMs run on there"
            remedy = f"see to the control network of {name}, and to its agent"
            sentence = f"{name} lives and cannot be reached: {node.sentence}; {then}"
            yield Said("node-isolated", about, node.since_us, sentence, remedy)
        case "lost":
            remedy = f"repair {name} and start it: it comes back by itself once it has ended what is no longer its own"
            yield Said("node-lost", about, node.since_us, f"{name} is lost: {node.sentence}", remedy)
    if faults:
        remedy = f"its VMs run on; see to the storage and networks of {name}, or move its VMs away (asvctl node drain {name})"
        yield Said("node-paths", about, node.faults_us, f"{name} is heard, but {'; '.join(faults)}", remedy)
