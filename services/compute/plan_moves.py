"""A better plan for what the VMs want just now: one VM floats in another cell. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from libs.common.messages import Value
from proto.plan import NodeCpus, VmPlan
from services.compute.plan_limits import Pcpus
from services.compute.plan_policy import cell_of, opened

GAIN_PCT_MIN = 5.0
"""A rebalance that meets less of the demand than this in addition is not worth the cold caches."""


class Move(Value):
    """A better plan: this VM floats in another cell. gain_pct: how much more of all demand is then met."""

    vm: str
    pcpus: Pcpus
    gain_pct: float
    sentence: str


def improve(
    cpus: NodeCpus,
    plans: Mapping[str, VmPlan],
    demand_pct: Mapping[str, float],
    memory_mib: Mapping[str, int] | None = None,
) -> Move | None:
    """The one move between cells that gains most, if it gains enough. One at a time: what it does is seen before the next.
    memory_mib: by VM; a cell takes no VM whose memory it could not hold as well."""
    node, memory = opened(cpus), memory_mib or {}
    node.take(p for plan in plans.values() if plan.exclusive for p in plan.pcpus)
    homes = {vm: cell_of(node, plan.pcpus) for vm, plan in plans.items() if not (plan.exclusive or plan.pins)}
    load = [sum(demand_pct.get(vm, 0.0) for vm, cell in homes.items() if cell == n) for n in range(len(node.cells))]
    for vm, plan in plans.items():
        if (cell := cell_of(node, plan.pcpus)) is not None:
            node.memory_mib[cell] += memory.get(vm, 0)
    room = [100.0 * len(node.pools[n]) for n in range(len(node.cells))]
    total = sum(load)
    best: Move | None = None
    for vm, cell in sorted(homes.items()):
        demand = demand_pct.get(vm, 0.0)
        if cell is None or load[cell] <= room[cell]:
            continue
        for n in range(len(node.cells)):
            if n == cell or not node.holds(n, memory.get(vm, 0)):
                continue
            now = min(load[cell], room[cell]) + min(load[n], room[n])
            then = min(load[cell] - demand, room[cell]) + min(load[n] + demand, room[n])
            gain = round(100.0 * (then - now) / total, 1)
            if gain >= GAIN_PCT_MIN and (best is None or gain > best.gain_pct):
                what = f"{vm} wants {demand:.0f} %; its cell has {room[cell]:.0f} % for {load[cell]:.0f} %"
                where = f"the other {room[n]:.0f} % for {load[n]:.0f} %"
                best = Move(
                    vm=vm, pcpus=node.pools[n], gain_pct=gain, sentence=f"{what}, {where}: {gain} % more is met"
                )
    return best
