"""Decisions that follow one another closely are one story, though each began as a task of its own: a ladder looks once a second, a
node is suspected before it is lost, and a VM's turn comes when it comes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from proto.fence import FenceConfirmed, FenceDropped, FenceFailed, FenceRequested
from proto.guard import GuardEnded, RestartWanted, VmInHand, VmOwed, VmUnplaced
from proto.ladder import LadderClimbed, LadderDescended
from proto.lease import NodeIsolated, NodeLost, NodeOffProven, NodeReturned, NodeSuspected, NodeTrusted
from services.gateway.why.tree import Known

QUIET_US = 600_000_000
"""after so long without a decision the next one begins another story"""


def episodes(events: Iterable[Known]) -> dict[str, str]:
    """Task of a decision -> the task of the first of its episode."""
    joined: dict[str, str] = {}
    last: dict[tuple[str, str], tuple[str, int]] = {}
    for known in sorted(events, key=lambda known: known.recorded.position):
        if (of := _of(known)) is None:
            continue
        own, at_us = known.meta.correlation, known.recorded.at_us
        first, before_us = last.get(of, ("", 0))
        begins = isinstance(known.event, VmOwed)  # another fault is another story
        first = joined.get(own) or (first if first and not begins and at_us - before_us <= QUIET_US else own)
        joined[own] = first
        last[of] = (first, at_us)
    return joined


def _of(known: Known) -> tuple[str, str] | None:
    """Whose story it belongs to. What a person asked for is a story of its own."""
    match known.event:
        case LadderClimbed() | LadderDescended():
            return "ladder", known.event.node
        case NodeSuspected() | NodeIsolated() | NodeTrusted() | NodeLost() | NodeOffProven() | NodeReturned():
            return "node", known.event.node
        case FenceRequested() | FenceConfirmed() | FenceFailed() | FenceDropped() if not known.meta.actor.startswith("user:"):
            return "node", known.event.node
        case VmOwed() | RestartWanted() | VmInHand() | VmUnplaced() | GuardEnded() if not known.meta.actor.startswith("user:"):
            return "guard", known.event.vm
        case _:
            return None
