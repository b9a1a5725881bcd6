"""/v1/cluster/balance: how evenly the cluster is used, and what would make it more even."""

from __future__ import annotations

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from proto.balance import CLUSTER, ApplyBalance, BalanceShown, SetBalance
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import Balance, BalanceBody, BalanceMove, BalanceStay
from services.gateway.http.door import Asked, asker

ASK_S = 5.0
"""a plan is some tenths of a second of work"""


@get("/v1/cluster/balance", action=Action.READ, summary="Moves that would even out the cluster", tags=["Cluster"])
async def show_balance(request: Asked, gateway: NamedDependency[Gateway]) -> Balance:
    """Moves of VMs of other projects are counted, not named."""
    found = await _ask(gateway)
    plan, vms = found.plan, gateway.model.vms.all
    seen = [move for move in plan.moves if move.vm in vms and request.user.sees(vms[move.vm].project)]
    return Balance(
        policy=plan.policy,
        score=plan.score,
        planned=plan.planned,
        threshold=found.rules.threshold,
        terms=plan.terms,
        planned_terms=plan.planned_terms,
        mode=found.mode,
        uneven_us=found.uneven_us,
        moving=len(found.moving),
        moves=[BalanceMove(**msgspec.structs.asdict(move)) for move in seen],
        not_shown=len(plan.moves) - len(seen),
        nodes=found.nodes,
        vms=found.vms,
        demand_known=found.demand_known,
        stays=[
            BalanceStay(stay.group, list(stay.vms), stay.reason)
            for stay in plan.stays
            if all(vm in vms and request.user.sees(vms[vm].project) for vm in stay.vms)
        ],
    )


@post(
    "/v1/cluster/balance", action=Action.BALANCE, status_code=202, summary="Let the rebalancer act, or only advise",
    tags=["Cluster"],
)  # fmt: skip
async def set_balance(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[BalanceBody]) -> Accepted:
    wanted = {"threshold": data.threshold, "at_once_max": data.at_once_max}
    given = {name: value for name, value in wanted.items() if value is not None}
    rules = msgspec.structs.replace((await _ask(gateway)).rules, **given) if given else None
    accepted = await _tell(request, gateway, SetBalance(mode=data.mode, rules=rules))
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "balance", "cluster", "", f"the rebalancer's mode was {data.mode} already")
    return accepted


@post(
    "/v1/cluster/balance/apply", action=Action.BALANCE, status_code=202, summary="Move the plan's first batch now",
    tags=["Cluster"],
)  # fmt: skip
async def apply_balance(request: Asked, gateway: NamedDependency[Gateway]) -> Accepted:
    return await _tell(request, gateway, ApplyBalance())


async def _tell(request: Asked, gateway: Gateway, command: SetBalance | ApplyBalance) -> Accepted:
    stream = f"balance-{CLUSTER}"
    return await gateway.commands.ask(asker(request, gateway), "compute", stream, command, DEFAULT_PROJECT)


async def _ask(gateway: Gateway) -> BalanceShown:
    return await ask_service(gateway.bus, "compute", "balance", BalanceShown)
