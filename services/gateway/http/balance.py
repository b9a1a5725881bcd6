"""/v1/cluster/balance: how evenly the cluster is used, and what would make it more even."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency

from libs.common.bus import BusError, NoResponder
from proto.balance import BalanceShown
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import Balance, BalanceMove
from services.gateway.http.door import Asked
from services.gateway.problems import away

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
        threshold=found.threshold,
        terms=plan.terms,
        planned_terms=plan.planned_terms,
        moves=[BalanceMove(**msgspec.structs.asdict(move)) for move in seen],
        not_shown=len(plan.moves) - len(seen),
        nodes=found.nodes,
        vms=found.vms,
        demand_known=found.demand_known,
    )


async def _ask(gateway: Gateway) -> BalanceShown:
    try:
        data = await gateway.bus.request("query.compute.balance", b"", timeout_s=ASK_S)
        return msgspec.msgpack.decode(data, type=BalanceShown)
    except NoResponder:
        raise away("compute is not running just now", "ask again in a moment") from None
    except (BusError, msgspec.DecodeError) as error:
        raise away(f"compute did not say: {error}", "ask again in a moment") from error
