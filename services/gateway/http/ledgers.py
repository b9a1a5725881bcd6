"""/v1/memory: what each node's memory is promised to; and what may be set of it, node by node."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.messages import Command
from proto.drain import AskDrain, DrainPlan
from proto.ladder import MemoryPolicy, RatioPct
from proto.ledgers import AskRelief, LedgerShown, LedgersShown, Relief
from proto.memory import Area, Mib, SetAreas, SetFailoverShare, SetMemoryPolicy
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import Body, DrainMove, DrainUnfit
from services.gateway.http.door import Asked, asker
from services.gateway.past.answering import live_only
from services.gateway.problems import Problem

NAMES_MAX = 5



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
    """Whole: what is not said is as it is by default. drain: where what is promised does not fit it, VMs move away first."""

    ratio_pct: RatioPct = 150
    class_ratio_pct: Annotated[dict[str, RatioPct], msgspec.Meta(max_length=8)] = msgspec.field(default_factory=dict)
    merge: bool = False
    swap: bool = True
    drain: bool = False

    @property
    def policy(self) -> MemoryPolicy:
        return MemoryPolicy(
            ratio_pct=self.ratio_pct, class_ratio_pct=self.class_ratio_pct, merge=self.merge, swap=self.swap
        )


class PolicyPlan(msgspec.Struct):
    """What setting a policy would take. moves, unfit: of the VMs that would have to go first, where to; none: nothing is in its
    way. enough: whether it can hold once they have gone."""

    moves: list[DrainMove]
    unfit: list[DrainUnfit]
    enough: bool


@get("/v1/memory", action=Action.READ, summary="The nodes' memory ledgers", tags=["Memory"])
async def list_ledgers(request: Asked, gateway: NamedDependency[Gateway]) -> Ledgers:
    """VMs of other projects count in the sums and are not named. Of now only: what is taken back and what hosts have free is
    measured, not recorded."""
    if gateway.past is not None:
        remedy = "`asvctl --at … node show NODE` has what its ledger had promised then"
        raise live_only(gateway.past.at_us, remedy)
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
    """With `drain`: refused where one that would have to go fits nowhere else, else it holds once they have gone."""
    if data.drain:
        await gateway.node(node)
        plan = await _planned(gateway, node, data.policy)
        if plan.unfit:
            said = "; ".join(f"{u.vm}: {u.sentence}" for u in plan.unfit[:NAMES_MAX])
            why = f"{len(plan.unfit)} of {len(plan.unfit) + len(plan.moves)} VMs that would have to go fit nowhere else: {said}"
            raise Problem(409, "NO_NODE_FITS", why, plan.unfit[0].remedy)
    command = SetMemoryPolicy(node=node, policy=data.policy, drain=data.drain)
    return await _tell(request, gateway, node, "memory-policy", command)


@post("/policy/plan", action=Action.NODES, status_code=200, summary="Who would have to go before a policy can hold, and where to")
async def plan_policy(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[PolicyBody]
) -> PolicyPlan:
    """Nothing is moved or set by asking."""
    await gateway.node(node)
    return await _planned(gateway, node, data.policy)


async def _planned(gateway: Gateway, node: str, policy: MemoryPolicy) -> PolicyPlan:
    relief = await ask_service(gateway.bus, "memory", "relief", Relief, AskRelief(node=node, policy=policy))
    if not relief.vms:
        return PolicyPlan([], [], relief.enough)
    found = await ask_service(gateway.bus, "compute", "drain", DrainPlan, AskDrain(node=node, vms=relief.vms))
    moves = [DrainMove(move.vm, move.to, move.copy_mib) for move in found.moves]
    unfit = [DrainUnfit(unfit.vm, unfit.sentence, unfit.remedy) for unfit in found.unfit]
    known = {move.vm for move in moves} | {row.vm for row in unfit}
    busy = "it is starting, stopping or moving"
    unfit += [DrainUnfit(vm, busy, "ask again when it runs or is stopped") for vm in relief.vms if vm not in known]
    return PolicyPlan(moves, unfit, relief.enough)


router = Router("/v1/nodes/{node:str}/memory", route_handlers=[set_areas, set_share, set_policy, plan_policy], tags=["Memory"])
