"""/v1/ha: whether nodes are alive, and what is done when one is not."""

from __future__ import annotations

from litestar import get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.messages import Command
from proto.haview import HaShown, NodeStanding
from proto.lease import MAIN, ArmHa, ConfirmOff, DisarmHa, SetHa
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.door import Asked, asker
from services.gateway.http.ha_bodies import DisarmBody, Ha, HaBody, HaNode, HaRules, Kept, OffBody
from services.gateway.problems import Problem
from services.gateway.views.guards import GuardsView
from services.gateway.views.ha import HaView, Standing


@get("/v1/ha", action=Action.READ, summary="How nodes stand, and who watches them", tags=["High availability"])
async def show_ha(gateway: NamedDependency[Gateway]) -> Ha:
    """While ha does not answer, what the log says."""
    found = await _found(gateway)
    found.reserve = kept(gateway.model.guards)
    for node in found.nodes:
        if (device := gateway.model.fences.all.get(node.name)) is not None:
            node.fence = device.state
    return found


async def _found(gateway: Gateway) -> Ha:
    view, pools = gateway.model.ha, gateway.model.nodes.pool_names()
    try:
        shown = await ask_service(gateway.bus, "ha", "standing", HaShown)
    except Problem:
        return _of_log(view, sorted(gateway.model.nodes.all), pools)
    nodes = [_node(one, view.nodes.get(one.node, Standing()).remarks(pools), shown.at_us) for one in shown.nodes]
    return _ha(shown, nodes, heard=True)


def _ha(told: HaShown | HaView, nodes: list[HaNode], *, heard: bool) -> Ha:
    return Ha(
        armed=told.armed, settings=HaRules.of(told.settings), reason=told.reason, until_us=told.until_us, held=told.held,
        remedy=told.remedy, term=told.term, holder=told.holder, term_us=told.term_us, heard=heard, nodes=nodes,
    )  # fmt: skip


def kept(view: GuardsView) -> Kept | None:
    plan = view.reserve
    if plan is None:
        return None
    owed = [one.owed for one in view.all.values() if one.owed is not None]
    return Kept(
        plan.wanted, plan.covers, plan.away, plan.shares, plan.demand_mib, plan.waiting_mib, plan.missing_mib, plan.sentence,
        len(owed), sum(bool(one.remedy) for one in owed),
    )  # fmt: skip


def _of_log(view: HaView, names: list[str], pools: dict[str, str]) -> Ha:
    nodes = []
    for name in names:
        found = view.nodes.get(name, Standing())
        nodes.append(
            HaNode(name, found.standing, found.since_us, found.sentence, found.epoch, faults=found.remarks(pools))
        )
    return _ha(view, nodes, heard=False)


def _node(one: NodeStanding, faults: tuple[str, ...], at_us: int) -> HaNode:
    def ago(us: int) -> float:
        return round(max(0, at_us - us) / 1e6, 2) if us else -1.0

    return HaNode(
        name=one.node, standing=one.standing, since_us=one.since_us, sentence=one.sentence, epoch=one.epoch,
        granted=one.granted, control_s=ago(one.control_us), storage_s={p: ago(us) for p, us in one.storage_us.items()},
        watchdog_s=ago(one.beat_us), own=one.own, left_s=round(one.left_us / 1e6, 2), slow=one.slow, watched=one.watched,
        pools=one.pools, faults=faults,
    )  # fmt: skip


@put("/v1/ha", action=Action.HA, status_code=202, summary="Set high availability", tags=["High availability"])
async def set_ha(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[HaBody]) -> Accepted:
    """What is not said stays."""
    return await _tell(request, gateway, "ha", SetHa(**data.said()), "high availability was so already")


@post(
    "/v1/ha/disarm", action=Action.HA, status_code=202, summary="Declare nothing lost, restart nothing, for a while",
    tags=["High availability"],
)  # fmt: skip
async def disarm_ha(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[DisarmBody]) -> Accepted:
    """Leases go on, so that nothing is paused."""
    until_us = gateway.clock.now_us() + data.for_s * 1_000_000 if data.for_s else 0
    return await _tell(request, gateway, "ha", DisarmHa(reason=data.reason, until_us=until_us), "it was disarmed already")


@post(
    "/v1/ha/arm", action=Action.HA, status_code=202, summary="Arm it again; what is silent by now is down by your word",
    tags=["High availability"],
)  # fmt: skip
async def arm_ha(request: Asked, gateway: NamedDependency[Gateway]) -> Accepted:
    return await _tell(request, gateway, "ha", ArmHa(), "it was armed already, and nothing holds it")


@post(
    "/v1/nodes/{node:str}/confirm-off", action=Action.HA, status_code=202, summary="Your word that a node is off",
    tags=["High availability"],
)  # fmt: skip
async def confirm_off(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[OffBody]
) -> Accepted:
    """Its VMs start elsewhere upon this word alone. Refused where the node shows that it lives."""
    await gateway.node(node)
    command = ConfirmOff(node=node, reason=data.reason)
    accepted = await gateway.commands.ask(asker(request, gateway), "ha", f"lease-{node}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "confirm-off", node, "", f"{node} was declared lost already")
    return accepted


async def _tell(request: Asked, gateway: Gateway, kind: str, command: Command, unchanged: str) -> Accepted:
    accepted = await gateway.commands.ask(asker(request, gateway), "ha", f"ha-{MAIN}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, kind, "cluster", "", unchanged)
    return accepted


routes = [show_ha, set_ha, disarm_ha, arm_ha, confirm_off]
