"""/v1/cluster/placement: what placement prefers, and how far CPUs may be over-allocated."""

from __future__ import annotations

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from proto.cluster import MAIN, ClassChange, PlacementSet, SetPlacement
from proto.placement import PlacementRules
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import PlacementBody
from services.gateway.http.cluster import last_said
from services.gateway.http.door import Asked, asker


@get("/v1/cluster/placement", action=Action.READ, summary="What is set for placement", tags=["Cluster"])
async def show_placement(request: Asked, gateway: NamedDependency[Gateway]) -> PlacementRules:
    """weights: of the cluster, and of a class where it has its own; vcpus_per_pcpu likewise, and by node."""
    if gateway.past is not None:
        said = await last_said(gateway, PlacementSet)
        return said.rules if said is not None else PlacementRules()
    return await ask_service(gateway.bus, "compute", "placement", PlacementRules)


@post(
    "/v1/cluster/placement", action=Action.PLACEMENT, status_code=202, summary="Change what is set for placement",
    tags=["Cluster"],
)  # fmt: skip
async def set_placement(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[PlacementBody]) -> Accepted:
    """Refused where more was promised already than a limit would allow: 409 `PROMISED_MORE`, with the nodes and their numbers."""
    command = SetPlacement(
        weights=data.weights,
        vcpus_per_pcpu=data.vcpus_per_pcpu,
        classes={p: ClassChange(weights=c.weights, vcpus_per_pcpu=c.vcpus_per_pcpu) for p, c in data.classes.items()},
        nodes=data.nodes,
    )
    ask = asker(request, gateway)
    accepted = await gateway.commands.ask(ask, "compute", f"cluster-{MAIN}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "placement", "cluster", "", "placement had these rules already")
    return accepted
