"""`query.compute.balance`: the plan as of now, whether or not the rebalancer may act on it."""

from __future__ import annotations

from collections.abc import Callable

from proto.balance import BalanceShown
from services.compute.balance.facts import BalanceViews
from services.compute.balance.model import Balance
from services.compute.balance.plan import plan

WHAT = "balance"


def shown(views: BalanceViews, online: Callable[[str], bool], state: Balance, now_us: int) -> BalanceShown:
    load, rules = views.load(online, now_us), state.rules
    return BalanceShown(
        plan=plan(load, rules, state.resting(now_us)),
        rules=rules,
        mode=state.mode,
        uneven_us=state.uneven_us,
        moving={vm: under.target for vm, under in state.moving.items()},
        nodes=sum(not node.cordoned for node in load.nodes),
        vms=views.running(load),
        demand_known=sum(vm.vm in views.demand for vm in load.vms),
    )
