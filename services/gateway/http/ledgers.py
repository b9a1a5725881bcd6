"""/v1/memory: what each node's memory is promised to; and what may be set of it, node by node."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.messages import Command
from proto.ladder import MemoryPolicy, RatioPct
from proto.ledgers import LedgerShown, LedgersShown
from proto.memory import Area, Mib, SetAreas, SetFailoverShare, SetMemoryPolicy
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker

ASK_S = 5.0



class Ledgers(msgspec.Struct):
    items: list[LedgerShown]


class AreaBody(Body):
    """As Area of proto/memory.py; low_mib follows min_mib where it is not said."""

    name: Annotated[str, msgspec.Meta(max_length=63)]
    min_mib: Mib = 0
    low_mib: Mib = 0
    high_mib: Mib = 0
    max_mib: Mib = 0


class AreasBody(Body):
    areas: Annotated[tuple[AreaBody, ...], msgspec.Meta(max_length=16)] = ()


class ShareBody(Body):
    share_mib: Mib


class PolicyBody(Body):
    """Whole: what is not said is as it is by default."""

    ratio_pct: RatioPct = 150
    class_ratio_pct: Annotated[dict[str, RatioPct], msgspec.Meta(max_length=8)] = msgspec.field(default_factory=dict)
    merge: bool = False
    swap: bool = True


@get("/v1/memory", action=Action.READ, summary="The nodes' memory ledgers", tags=["Memory"])
async def list_ledgers(request: Asked, gateway: NamedDependency[Gateway]) -> Ledgers:
    """VMs of other projects count in the sums and are not named."""
    found = await ask_service(gateway.bus, "memory", "ledgers", LedgersShown)
    vms, nodes = gateway.model.vms.all, gateway.model.nodes.all
    seen = {name for name, vm in vms.items() if request.user.sees(vm.project)}
    return Ledgers(
        [
            msgspec.structs.replace(ledger, held=tuple(h for h in ledger.held if h.vm in seen))
            for ledger in found.ledgers
            if ledger.node in nodes
        ]
    )


async def _tell(request: Asked, gateway: Gateway, node: str, kind: str, command: Command) -> Accepted:
    ask = asker(request, gateway)
    await gateway.node(node)
    accepted = await gateway.commands.ask(ask, "memory", f"ledger-{node}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, kind, node, "", f"nothing had to change on {node}")
    return accepted


@post("/areas", action=Action.NODES, status_code=202, summary="Divide a node's memory; no areas: by policy")
async def set_areas(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[AreasBody]
) -> Accepted:
    areas = tuple(
        Area(name=a.name, min_mib=a.min_mib, low_mib=a.low_mib or a.min_mib, high_mib=a.high_mib, max_mib=a.max_mib)
        for a in data.areas
    )
    return await _tell(request, gateway, node, "memory-areas", SetAreas(node=node, areas=areas))


@post("/share", action=Action.NODES, status_code=202, summary="Keep memory of a node for failover")
async def set_share(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[ShareBody]
) -> Accepted:
    command = SetFailoverShare(node=node, share_mib=data.share_mib)
    return await _tell(request, gateway, node, "memory-share", command)


@post("/policy", action=Action.NODES, status_code=202, summary="Say how far a node's memory is over-allocated")
async def set_policy(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[PolicyBody]
) -> Accepted:
    policy = MemoryPolicy(
        ratio_pct=data.ratio_pct, class_ratio_pct=data.class_ratio_pct, merge=data.merge, swap=data.swap
    )
    return await _tell(request, gateway, node, "memory-policy", SetMemoryPolicy(node=node, policy=policy))


router = Router("/v1/nodes/{node:str}/memory", route_handlers=[set_areas, set_share, set_policy], tags=["Memory"])
