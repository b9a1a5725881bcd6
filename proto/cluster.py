"""The cluster itself (stream `cluster-main`), decided by compute: which life of the database this is, and which protocol all
speak."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from libs.common.messages import Command, Event, Name, Tick, Value
from proto.machine import Priority
from proto.placement import NODES_MAX, PlacementRules, Ratio, RatioOrNone, WeightSet

MAIN = "main"


class Refusal(StrEnum):
    BEHIND = "BEHIND"
    PROTOCOL = "PROTOCOL"
    PROMISED_MORE = "PROMISED_MORE"
    NODE_UNKNOWN = "NODE_UNKNOWN"


class BeginIncarnation(Tick):
    """Decides something only when the database was restored or promoted since; incarnation: filled in by the host."""

    incarnation: int = 1


class FinalizeCluster(Command):
    """All speak `protocol` from now on: what only it knows may be written. 0: the newest that compute speaks. services: the newest
    that each of them speaks, as it said itself (0: it did not answer); nodes likewise, filled in by compute's own view."""

    protocol: int = 0
    services: dict[str, int] = {}
    nodes: dict[str, int] = {}


class NodeUse(Value):
    """What VMs were promised on a node; classes: theirs."""

    node: str
    pcpus: float
    vcpus: int
    classes: tuple[Priority, ...] = ()


class ClassChange(Value):
    """None: that stays. weights empty, vcpus_per_pcpu 0: nothing of its own any more."""

    weights: Literal["", "spread", "pack"] | None = None
    vcpus_per_pcpu: RatioOrNone | None = None


class SetPlacement(Command):
    """Change what is named here; None, and what is not named, stays. nodes: the limit of a node, 0: the cluster's again.
    uses: filled in by compute's own view."""

    weights: WeightSet | None = None
    vcpus_per_pcpu: Ratio | None = None
    classes: dict[Priority, ClassChange] = {}
    nodes: Annotated[dict[Name, RatioOrNone], msgspec.Meta(max_length=NODES_MAX)] = {}
    uses: tuple[NodeUse, ...] = ()


class PlacementSet(Event):
    """All of the rules, as they hold from now on."""

    rules: PlacementRules


class IncarnationBegan(Event):
    incarnation: int


class ClusterFinalized(Event):
    protocol: int


ClusterCommand = BeginIncarnation | FinalizeCluster | SetPlacement
ClusterEvent = IncarnationBegan | ClusterFinalized | PlacementSet
