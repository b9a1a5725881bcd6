"""Where a VM may run, with the reasons: the values inside a decision about placement."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import NodeId, Value


class Filter(StrEnum):
    """Why a node was not a candidate; the words of `why-not`."""

    OFFLINE = "offline"
    CORDONED = "cordoned"
    CPU = "cpu"
    MEMORY = "memory"
    POOL = "pool"
    BRIDGE = "bridge"
    TRIED = "tried"
    NOT_ASKED = "not-asked"


class Candidate(Value):
    """A node that passed all filters, with each term of its score (higher is better) and the inputs they were made of."""

    node: NodeId
    score: float
    terms: dict[str, float] = {}


class Rejected(Value):
    """A node that a filter removed, and the numbers: what was needed, what was there."""

    node: NodeId
    filter: Filter
    needed: int = 0
    available: int = 0


class Placement(Value):
    """A choice of node with its reasons. `policy` names the rules and their version; candidates are best first."""

    policy: str
    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()
