"""Down the ladder: what was taken is given back once the node has had enough for a while. Pure.

Enough is more than what made it climb: a quarter of minFree above it, for half a minute. The last taken comes first: standing
still, wishes to move, swap, balloons (dearest memory first, half of what is spare in one decision), merging.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.messages import NodeId
from proto.ladder import LadderDescended, LadderStep, Level, Rung
from proto.memory import LedgerEvent
from services.memory.balloon import Holder, price, step_mib
from services.memory.scene import Scene, Vm

HOLD_S = 30
PACE_US = 5_000_000


def judge(scene: Scene, node: str, full: bool) -> Sequence[LedgerEvent]:
    """At most one rung in one decision. full: more is predicted than there is, so that wishes to move stand."""
    seen, ledger = scene.seen, scene.ledger
    if not ledger.grips or seen.calm_s < HOLD_S or seen.at_us - ledger.descended_us < PACE_US:
        return ()
    spare = seen.available_mib - scene.calm_mib
    if spare <= 0:
        return ()
    steps = _first(scene, spare, full)
    if not steps:
        return ()
    return [
        LadderDescended(
            node=NodeId(node), level=Level.AMPLE, seen=seen, min_free_mib=scene.min_free_mib, spare_mib=spare,
            steps=tuple(steps),
        )
    ]  # fmt: skip


def _first(scene: Scene, spare_mib: int, full: bool) -> list[LadderStep]:
    gripped = sorted((vm for vm in scene.vms if not vm.grip.empty), key=lambda v: (-_price(v), v.name))
    if paused := [vm for vm in gripped if vm.grip.pause]:
        return [_step(Rung.PAUSE, paused[0], 0, paused[0].nominal_mib)]
    if not full and (moving := [vm for vm in gripped if vm.grip.move]):
        return [_step(Rung.MOVE, vm, 0, vm.nominal_mib) for vm in moving]
    return _swap(gripped, spare_mib) or _balloon(gripped, spare_mib) or _merge(gripped)


def _swap(gripped: Sequence[Vm], spare_mib: int) -> list[LadderStep]:
    steps, left = [], spare_mib // 2
    for vm in gripped:
        back = min(vm.grip.swap_mib, step_mib(vm.nominal_mib), left)
        if back > 0:
            steps.append(_step(Rung.SWAP, vm, vm.grip.swap_mib, vm.grip.swap_mib - back))
            left -= back
    return steps


def _balloon(gripped: Sequence[Vm], spare_mib: int) -> list[LadderStep]:
    steps, left = [], spare_mib // 2
    for vm in gripped:
        if vm.grip.target_mib < 0:
            continue
        back = min(vm.nominal_mib - vm.grip.target_mib, step_mib(vm.nominal_mib), left)
        if back > 0:
            steps.append(_step(Rung.BALLOON, vm, vm.grip.target_mib, vm.grip.target_mib + back))
            left -= back
    return steps


def _merge(gripped: Sequence[Vm]) -> list[LadderStep]:
    return [_step(Rung.MERGE, vm, vm.nominal_mib, vm.nominal_mib) for vm in gripped if vm.grip.merge]


def _price(vm: Vm) -> float:
    holder = Holder(vm.name, vm.priority, vm.nominal_mib, vm.reservation_mib, vm.held_mib, vm.demand_mib, vm.used_mib)
    return price(holder, vm.held_mib)


def _step(rung: Rung, vm: Vm, from_mib: int, to_mib: int) -> LadderStep:
    return LadderStep(
        rung=rung, vm=vm.name, generation=vm.generation, from_mib=from_mib, to_mib=to_mib, demand_mib=vm.demand_mib,
        price=round(_price(vm), 6), used_mib=vm.used_mib, reservation_mib=vm.reservation_mib,
    )  # fmt: skip
