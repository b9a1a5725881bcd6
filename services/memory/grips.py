"""What the ladder has taken from VMs, folded from its decisions; and the order that tells the node. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.messages import NodeId
from libs.memory.promise import still_taken
from proto.ladder import LadderClimbed, LadderDescended, LadderStep, Rung
from proto.machine import Priority
from proto.node import MemoryTarget, OrderMemory
from services.memory.areas import for_classes
from services.memory.states import Grip, Ledger, Reservation


def climbed(ledger: Ledger, event: LadderClimbed) -> Ledger:
    return replace(_stepped(ledger, event.steps, event.seen.at_us, up=True), climbed_us=event.seen.at_us)


def descended(ledger: Ledger, event: LadderDescended) -> Ledger:
    return replace(_stepped(ledger, event.steps, event.seen.at_us, up=False), descended_us=event.seen.at_us)


def _stepped(ledger: Ledger, steps: tuple[LadderStep, ...], at_us: int, up: bool) -> Ledger:
    grips = dict(ledger.grips)
    for step in steps:
        held = ledger.reserved.get(step.vm)
        if held is None or held.generation != step.generation:
            continue
        grip = grips.get(step.vm) or Grip(generation=step.generation)
        after = replace(_taken(grip, step, held.promise.nominal_mib, up), at_us=at_us)
        if after.empty:
            grips.pop(step.vm, None)
        else:
            grips[step.vm] = after
    return replace(ledger, grips=grips)


def _taken(grip: Grip, step: LadderStep, nominal_mib: int, up: bool) -> Grip:
    match step.rung:
        case Rung.MERGE:
            return replace(grip, merge=up)
        case Rung.BALLOON:
            return replace(grip, target_mib=step.to_mib if step.to_mib < nominal_mib else -1)
        case Rung.SWAP:
            return replace(grip, swap_mib=step.to_mib)
        case Rung.MOVE:
            return replace(grip, move=up)
        case Rung.PAUSE:
            return replace(grip, pause=up)


def after_promise(grips: dict[str, Grip], vm: str, held: Reservation) -> dict[str, Grip]:
    """With a new promise of this VM. A newer generation is another process: nothing is taken from it yet."""
    grip = grips.get(vm)
    if grip is None:
        return grips
    others = {name: g for name, g in grips.items() if name != vm}
    promise = held.promise
    if grip.generation != held.generation or promise.priority is Priority.CRITICAL:
        return others
    target, swap = still_taken(grip.target_mib, grip.swap_mib, promise)
    best_effort = promise.priority is Priority.BEST_EFFORT
    kept = replace(
        grip, target_mib=target, swap_mib=swap, move=grip.move and best_effort, pause=grip.pause and best_effort
    )
    return others if kept.empty else others | {vm: kept}


def order(node: NodeId, ledger: Ledger, version: int) -> OrderMemory | None:
    """None for a node that can do nothing of it."""
    if not (ledger.balloon or ledger.memory_areas):
        return None
    promises = [r.promise for r in ledger.reserved.values()]
    limits = (*ledger.areas, *for_classes(promises, ledger.areas, ledger.capacity_mib))
    modules = {area.name: area for area in limits}
    targets = tuple(_target(ledger, vm, grip) for vm, grip in sorted(ledger.grips.items()) if _told(grip))
    return OrderMemory(node=node, version=version, targets=targets, limits=tuple(modules.values()))


def _told(grip: Grip) -> bool:
    return grip.target_mib >= 0 or grip.swap_mib > 0 or grip.merge


def _target(ledger: Ledger, vm: str, grip: Grip) -> MemoryTarget:
    promise = ledger.reserved[vm].promise
    has_mib = grip.target_mib if grip.target_mib >= 0 else promise.nominal_mib
    high_mib = has_mib + promise.overhead_mib - grip.swap_mib if grip.swap_mib else 0
    return MemoryTarget(
        vm=vm,
        generation=grip.generation,
        target_mib=has_mib,
        swap_max_mib=grip.swap_mib,
        high_mib=high_mib,
        merge=grip.merge,
    )
