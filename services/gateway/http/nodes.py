"""/v1/nodes and /v1/join: the physical machines. They belong to no project: every viewer sees them, all-project admins act."""

from __future__ import annotations

import msgspec
from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from libs.common.messages import Command
from proto import compute as c
from proto.drain import AskDrain, DrainNode, DrainPlan
from proto.placement import AskCpuLimit, CpuLimit
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import CordonBody, Drain, DrainBody, DrainMove, DrainUnfit, Nodes
from services.gateway.http.door import Asked, asker
from services.gateway.http.node_memory import memory_of_node
from services.gateway.join import Join, Joined, admit
from services.gateway.problems import Problem, away
from services.gateway.views.nodes import Node

ASK_S = 5.0


def _shown(gateway: Gateway, request: Asked, node: Node) -> Node:
    """With what heartbeats and the VMs' views add; VMs of other projects are not named."""
    vms = gateway.model.vms
    named = tuple(vm for vm in vms.on(node.name) if request.user.sees(vms.all[vm].project))
    known = gateway.model.ha.nodes.get(node.name)
    standing = known.standing if known is not None and known.standing != "trusted" else ""
    return msgspec.structs.replace(node, online=gateway.beats.online(node.name), vms=named, standing=standing)


@get("", action=Action.READ, summary="List nodes")
async def list_nodes(request: Asked, gateway: NamedDependency[Gateway]) -> Nodes:
    nodes = sorted(gateway.model.nodes.all.values(), key=lambda node: node.name)
    return Nodes([_shown(gateway, request, node) for node in nodes])


@get("/{node:str}", action=Action.READ, summary="Show a node")
async def show_node(request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str]) -> Node:
    return await _limited(gateway, _shown(gateway, request, await gateway.node(node)))


async def _limited(gateway: Gateway, node: Node) -> Node:
    """With how far its pCPUs are over-allocated, where compute says it."""
    if node.capabilities is None:
        return node
    try:
        limit = await ask_service(gateway.bus, "compute", "cpu-limit", CpuLimit, AskCpuLimit(node=node.name))
    except Problem:
        return node
    return msgspec.structs.replace(node, vcpus=limit.vcpus, vcpus_max=limit.vcpus_max, over_limit=limit.sentence)


async def _tell(request: Asked, gateway: Gateway, node: str, kind: str, command: Command) -> Accepted:
    ask = asker(request, gateway)
    await gateway.node(node)
    accepted = await gateway.commands.ask(ask, "compute", f"node-{node}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, kind, node, "", f"nothing had to change on {node}")
    return accepted


@post("/{node:str}/cordon", action=Action.NODES, status_code=202, summary="Let a node take no new VMs")
async def cordon_node(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[CordonBody | None] = None
) -> Accepted:
    reason = data.reason if data else ""
    return await _tell(request, gateway, node, "cordon", c.CordonNode(node=node, reason=reason))


@post("/{node:str}/uncordon", action=Action.NODES, status_code=202, summary="Let a node take new VMs again")
async def uncordon_node(request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str]) -> Accepted:
    return await _tell(request, gateway, node, "uncordon", c.UncordonNode(node=node))


@get("/{node:str}/drain", action=Action.NODES, summary="Where a node's VMs would go if it were drained")
async def show_drain(request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str]) -> Drain:
    """Nothing is moved by asking."""
    await gateway.node(node)
    plan = await ask_service(gateway.bus, "compute", "drain", DrainPlan, AskDrain(node=node))
    return Drain(
        moves=[DrainMove(move.vm, move.to, move.copy_mib) for move in plan.moves],
        unfit=[DrainUnfit(unfit.vm, unfit.sentence, unfit.remedy) for unfit in plan.unfit],
        waits=list(plan.waits),
    )


@post("/{node:str}/drain", action=Action.NODES, status_code=202, summary="Cordon a node and move its VMs away")
async def drain_node(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[DrainBody | None] = None
) -> Accepted:
    """All VMs are placed before any of them moves; refused as a whole where one fits nowhere, unless that is said to be fine."""
    body, ask = data or DrainBody(), asker(request, gateway)
    await gateway.node(node)
    command = DrainNode(node=node, partial=body.partial, reason=body.reason)
    accepted = await gateway.commands.ask(ask, "compute", f"drain-{node}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "drain", node, "", f"{node} is being drained already")
    return accepted


@delete("/{node:str}", action=Action.NODES, status_code=202, summary="Remove an empty node")
async def remove_node(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], at_once: FromQuery[bool] = False
) -> Accepted:
    """Its agent, where it is heard, takes away what it made of its host first (swap, control groups), and says what is left;
    at_once: without asking it."""
    return await _tell(request, gateway, node, "remove-node", c.RemoveNode(node=node, at_once=at_once))


@post("/v1/join", open=True, status_code=200, summary="Join a node by a one-time token", tags=["Nodes"])
async def join(gateway: NamedDependency[Gateway], data: JSONBody[Join]) -> Joined:
    if gateway.issuer is None:
        raise away("this gateway has no key to let nodes in with", "set ASV_ACCOUNT_KEY and start it again")
    return await admit(
        data,
        issuer=gateway.issuer,
        tokens=gateway.keyring.store,
        nodes=gateway.model.nodes,
        commands=gateway.commands,
        nats_url=gateway.nats_url,
    )


router = Router(
    "/v1/nodes",
    route_handlers=[list_nodes, show_node, memory_of_node, cordon_node, uncordon_node, show_drain, drain_node,
                    remove_node],
    tags=["Nodes"],
)
