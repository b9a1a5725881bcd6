"""Where a VM may run, with the reasons: the values inside a decision about placement.

A placement names few nodes and tells of all. Nodes are counted from 0 in the order in which they first joined the cluster, as the
log has it; a number is never given again. So a reader of the log knows the names, and no decision repeats them.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from enum import StrEnum

from libs.common.messages import NodeId, Value


class Filter(StrEnum):
    """Why a node was not a candidate; the words of `why-not`. A node is removed by the first filter it fails, in this order.

    apart       a VM of the same `apart` group runs there
    together    the VM's `together` group runs on another node
    numa        it has to lie in one cell, and no cell has the room
    cpu-limit   vCPUs promised over pCPUs would exceed the node's ratio
    cpu         the pCPU time that VMs reserve would exceed what there is
    memory      the ledger has not so much
    ha-reserve  the ledger has it, but only out of what is kept for the VMs of a failed node
    """

    NOT_ASKED = "not-asked"
    TRIED = "tried"
    OFFLINE = "offline"
    CORDONED = "cordoned"
    HEALTH = "health"
    POOL = "pool"
    BRIDGE = "bridge"
    APART = "apart"
    TOGETHER = "together"
    NUMA = "numa"
    CPU_LIMIT = "cpu-limit"
    CPU = "cpu"
    MEMORY = "memory"
    HA_RESERVE = "ha-reserve"


class Candidate(Value):
    """A node that passed all filters, with each term of its score (higher is better; those that are 0 are left out) and what the
    first of them are made of: the parts of CPU and memory that would be in use."""

    node: NodeId
    score: float
    terms: dict[str, float] = {}


class Rejected(Value):
    """A node that a filter removed, and the numbers: what was needed, what was there."""

    node: NodeId
    filter: Filter
    needed: int = 0
    available: int = 0


class Removed(Value):
    """All that one filter removed, by number: a bitset in base64, in which number n is bit 7 - n % 8 of byte n // 8."""

    filter: Filter
    numbers: str


class Placement(Value):
    """A choice of node with its reasons.

    policy      the rules, the set of weights, and their version
    candidates  the best of those that passed, best first
    rejected    of those removed: all in a small cluster; else those tried before and the nearest misses of filters with numbers
    passed      how many nodes passed all filters, the candidates included
    nodes       how many numbers were given when the choice was made
    removed     in a large cluster, per filter, the numbers of all that it removed
    """

    policy: str
    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    passed: int = 0
    nodes: int = 0
    removed: tuple[Removed, ...] = ()


def bitset(bits: bytes) -> str:
    return b2a_base64(bits, newline=False).decode()


def filter_of(placement: Placement, number: int) -> Filter | None:
    """The filter that removed the node of that number, by the bitsets alone."""
    at, mask = number >> 3, 128 >> (number & 7)
    sets = ((r.filter, a2b_base64(r.numbers)) for r in placement.removed)
    return next((f for f, bits in sets if at < len(bits) and bits[at] & mask), None)


def removed_by(placement: Placement, filter: Filter) -> int:
    """How many nodes that filter removed."""
    named = sum(r.filter is filter for r in placement.rejected)
    numbers = next((r.numbers for r in placement.removed if r.filter is filter), "")
    return max(named, int.from_bytes(a2b_base64(numbers)).bit_count())
