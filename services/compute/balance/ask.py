"""`query.compute.balance`: the plan as of now, whether or not the rebalancer may act on it."""

from __future__ import annotations

from collections.abc import Callable

from proto.balance import BalanceShown, Rules
from services.compute.balance.facts import BalanceViews
from services.compute.balance.plan import plan

WHAT = "balance"


def shown(views: BalanceViews, online: Callable[[str], bool], rules: Rules) -> BalanceShown:
    load = views.load(online)
    return BalanceShown(
        plan=plan(load, rules),
        threshold=rules.threshold,
        nodes=len(load.nodes),
        vms=len(load.vms),
        demand_known=sum(vm.vm in views.demand for vm in load.vms),
    )
