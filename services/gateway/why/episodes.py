"""Decisions of a node's ladder that follow one another closely are one story: it looks once a second, and each look that decides
something is a task of its own. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from proto.ladder import LadderClimbed, LadderDescended
from services.gateway.why.tree import Known

QUIET_US = 600_000_000
"""after so long without a decision the next one begins another story"""


def episodes(events: Iterable[Known]) -> dict[str, str]:
    """Task of a decision -> the task of the first of its episode."""
    joined: dict[str, str] = {}
    last: dict[str, tuple[str, int]] = {}
    for known in sorted(events, key=lambda known: known.recorded.position):
        if not isinstance(known.event, LadderClimbed | LadderDescended):
            continue
        node, at_us = known.event.node, known.recorded.at_us
        first, before_us = last.get(node, ("", 0))
        if not first or at_us - before_us > QUIET_US:
            first = known.meta.correlation
        joined[known.meta.correlation] = first
        last[node] = (first, at_us)
    return joined
