"""Where a VM may run, with the reasons: the values inside a decision about placement.

A placement names few nodes and tells of all. Nodes are counted from 0 in the order in which they first joined the cluster, as the
log has it; a number is never given again. So a reader of the log knows the names, and no decision repeats them.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import NodeId, Value
from proto.machine import Priority

NODES_MAX = 10_000
"""nodes that have a limit of their own"""


class WeightSet(StrEnum):
    """What a placement prefers among the nodes that passed all filters: the emptiest, or the fullest."""

    SPREAD = "spread"
    PACK = "pack"


VCPUS_PER_PCPU_MAX = 8.0
"""vCPUs promised per pCPU where nothing else was said: idle guests share well up to here, and busy ones still get an eighth."""

Ratio = Annotated[float, msgspec.Meta(ge=0.1, le=64)]
RatioOrNone = Annotated[float, msgspec.Meta(ge=0, le=64)]
"""0: none of its own"""


class ClassRules(Value):
    """Of one class of VMs. weights None: the cluster's. vcpus_per_pcpu: at most so many vCPUs may be promised per pCPU of a node
    on which a VM of this class is, whoever's they are; 0: no limit but the node's."""

    weights: WeightSet | None = None
    vcpus_per_pcpu: RatioOrNone = 0.0


class PlacementRules(Value):
    """What is set for the cluster. Of several limits the lowest holds; `nodes` gives a node another one than the cluster's."""

    weights: WeightSet = WeightSet.SPREAD
    vcpus_per_pcpu: Ratio = VCPUS_PER_PCPU_MAX
    classes: dict[Priority, ClassRules] = {}
    nodes: Annotated[dict[str, Ratio], msgspec.Meta(max_length=NODES_MAX)] = {}

    def weights_of(self, priority: Priority) -> WeightSet:
        rules = self.classes.get(priority)
        return self.weights if rules is None or rules.weights is None else rules.weights

    def ratio_of(self, priority: Priority) -> float:
        """The limit of a class; 0: none."""
        rules = self.classes.get(priority)
        return 0.0 if rules is None else rules.vcpus_per_pcpu

    def ratio_on(self, node: str, classes: frozenset[Priority] | set[Priority] = frozenset()) -> float:
        """vCPUs per pCPU that may be promised on a node where VMs of these classes are."""
        own = self.nodes.get(node, self.vcpus_per_pcpu)
        return min([own, *(ratio for p in classes if (ratio := self.ratio_of(p)))])


class CpuLimit(Value):
    """What is promised of a node's pCPUs, and what may be: vcpus of vcpus_max, which is pcpus times ratio. strictest: the class of
    VM whose limit that is; "": the node's or the cluster's. sentence: where more is promised than may be."""

    node: str
    pcpus: float
    vcpus: int
    vcpus_max: int
    ratio: float
    strictest: str = ""
    sentence: str = ""


class AskCpuLimit(Value):
    """`query.compute.cpu-limit`: the CpuLimit of a node as of now."""

    node: str


class Filter(StrEnum):
    """Why a node was not a candidate; the words of `why-not`. A node is removed by the first filter it fails, in this order.

    source      the VM is to leave it
    never-reported  it joined, and its agent has not said hello
    lost        it was declared lost, and has not come back
    health      its health is too low for new VMs
    pool-full   a pool that new disks of the VM would be in has no room (beside what it keeps free)
    network     it has not all networks that the VM's NICs are in
    firmware    it does not have the VM's firmware
    apart       a VM of the same `apart` group runs there
    together    the VM's `together` group runs on another node
    numa        it has to lie in one cell, and no cell has the room left
    cpu-limit   vCPUs promised over pCPUs would exceed the node's ratio, or that of a class which runs there
    cpu         the pCPU time that VMs reserve would exceed what there is
    memory      the ledger has not so much
    ha-reserve  the ledger has it, but only out of what is kept for the VMs of a failed node
    """

    NOT_ASKED = "not-asked"
    SOURCE = "source"
    TRIED = "tried"
    NEVER_REPORTED = "never-reported"
    LOST = "lost"
    OFFLINE = "offline"
    CORDONED = "cordoned"
    HEALTH = "health"
    POOL = "pool"
    POOL_FULL = "pool-full"
    NETWORK = "network"
    FIRMWARE = "firmware"
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
    """A node that a filter removed, and the numbers: what was needed, what was there. reason: as the node itself gave it."""

    node: NodeId
    filter: Filter
    needed: int = 0
    available: int = 0
    reason: str = ""


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
    relaxed     filters that it was let through, as nothing passed them
    """

    policy: str
    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    passed: int = 0
    nodes: int = 0
    removed: tuple[Removed, ...] = ()
    relaxed: tuple[Filter, ...] = ()


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
