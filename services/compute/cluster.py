"""The cluster itself (stream `cluster-main`). Pure.

incarnation   which life of the database this is: begun once, when the first tick of a restored log says a higher one
protocol      what all nodes and services speak: only raised, and only once nobody is behind
placement     what placement prefers, and how many vCPUs may be promised per pCPU (rules.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import Value
from libs.common.protocol import PROTOCOL
from proto.cluster import (
    MAIN,
    BeginIncarnation,
    ClusterCommand,
    ClusterEvent,
    ClusterFinalized,
    FinalizeCluster,
    IncarnationBegan,
    PlacementSet,
    Refusal,
    SetPlacement,
)
from proto.placement import PlacementRules
from services.compute import rules

NAMES_MAX = 5
"""nodes and services named in one sentence"""


class Cluster(Value):
    incarnation: int = 1
    protocol: int = 1
    placement: PlacementRules = PlacementRules()


def decide(command: ClusterCommand, cluster: Cluster) -> Sequence[ClusterEvent]:
    match command:
        case BeginIncarnation():
            begun = command.incarnation <= cluster.incarnation
            return () if begun else [IncarnationBegan(incarnation=command.incarnation)]
        case FinalizeCluster():
            return _finalize(command, cluster)
        case SetPlacement():
            return rules.change(command, cluster.placement)


def _finalize(command: FinalizeCluster, cluster: Cluster) -> Sequence[ClusterEvent]:
    wanted = command.protocol or PROTOCOL
    if wanted > PROTOCOL or wanted < cluster.protocol:
        raise Refused(
            Refusal.PROTOCOL,
            f"protocol {wanted} was asked for; finalized is {cluster.protocol}, and this compute speaks up to {PROTOCOL}",
            f"finalize one of {cluster.protocol} to {PROTOCOL}; it never goes back",
        )
    if wanted == cluster.protocol:
        return ()
    speaking = sorted((command.services | command.nodes).items())
    behind = [f"{name} ({newest or 'away'})" for name, newest in speaking if newest < wanted]
    if behind:
        named = ", ".join(behind[:NAMES_MAX])
        more = f" and {len(behind) - NAMES_MAX} more" if len(behind) > NAMES_MAX else ""
        raise Refused(
            Refusal.BEHIND, f"not all speak protocol {wanted}: {named}{more}", "upgrade or remove them, then finalize"
        )
    return [ClusterFinalized(protocol=wanted)]


def evolve(cluster: Cluster, event: ClusterEvent) -> Cluster:
    match event:
        case IncarnationBegan():
            return replace(cluster, incarnation=event.incarnation)
        case ClusterFinalized():
            return replace(cluster, protocol=event.protocol)
        case PlacementSet():
            return replace(cluster, placement=event.rules)


CLUSTER: Decider[ClusterCommand, Cluster, ClusterEvent] = Decider(
    kind="cluster",
    commands=get_args(ClusterCommand),
    events=get_args(ClusterEvent),
    state=Cluster,
    key=lambda command: MAIN,
    initial=Cluster(),
    decide=decide,
    evolve=evolve,
)
