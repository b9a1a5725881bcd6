"""What a recorded decision of the reclaim ladder says: whom it touched, and in words with its figures. Pure.

One decision speaks of VMs of several projects: `only` leaves of it what one may be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from proto.ladder import HostSeen, LadderClimbed, LadderDescended, LadderStep, Level, Rung, VmMoveWanted, VmPauseWanted
from proto.memory import CapacityExceeded, CapacitySet, MemoryOrderReported, MemoryPolicyDropped, MemoryPolicyWanted

VMS_MAX = 8
"""VMs named in one sentence"""

type Decision = LadderClimbed | LadderDescended

STORY = (
    LadderClimbed, LadderDescended, VmMoveWanted, VmPauseWanted, CapacitySet, CapacityExceeded, MemoryPolicyWanted,
    MemoryPolicyDropped, MemoryOrderReported,
)  # fmt: skip
"""what a node's memory story is made of; promises are told with the VMs that they were made to"""


def touched(event: Any) -> tuple[str, ...]:
    """The VMs of which it speaks."""
    match event:
        case LadderClimbed() | LadderDescended():
            return tuple(dict.fromkeys(step.vm for step in event.steps))
        case VmMoveWanted() | VmPauseWanted():
            return (event.vm,)
        case CapacityExceeded():
            return event.would_go
        case MemoryPolicyWanted():
            return event.vms
        case MemoryOrderReported():
            return tuple(dict.fromkeys(vm for fault in event.faults if (vm := _vm_of(fault))))
        case _:
            return ()


def only(event: Any, told: Callable[[str], bool], of_vm: bool) -> Any:
    """The event as far as it speaks of those VMs, and of none; None: nothing is left to tell. of_vm: for the story of a VM;
    a node's tells how the node was all the same."""
    left = _only(event, told)
    if touched(left) or not touched(event):
        return left
    return None if of_vm or isinstance(event, MemoryOrderReported) else left


def _only(event: Any, told: Callable[[str], bool]) -> Any:
    match event:
        case LadderClimbed() | LadderDescended():
            left = replace(event, steps=tuple(step for step in event.steps if told(step.vm)))
            hidden = isinstance(left, LadderClimbed) and left.waits and not told(left.waits)
            return replace(left, waits="") if hidden else left
        case CapacityExceeded():
            return replace(event, would_go=tuple(vm for vm in event.would_go if told(vm)))
        case MemoryPolicyWanted():
            return replace(event, vms=tuple(vm for vm in event.vms if told(vm)))
        case MemoryOrderReported():
            return replace(event, faults=tuple(f for f in event.faults if not (vm := _vm_of(f)) or told(vm)))
        case _:
            return event


def _vm_of(fault: str) -> str:
    """The VM that a fault of a memory order begins with; none where it is about an area."""
    subject = fault.partition(":")[0]
    return "" if " " in subject else subject


def said(event: Decision) -> str:
    """How the node was, and what was done to each VM."""
    steps = [_of_step(step, isinstance(event, LadderClimbed)) for step in event.steps[:VMS_MAX]]
    if (more := len(event.steps) - len(steps)) > 0:
        steps.append(f"and {more} more")
    return f"{_headline(event)}: {'; '.join(steps)}" if steps else _headline(event)


def figures(steps: Iterable[LadderStep]) -> list[str]:
    """What each step was decided on, a line for each."""
    return [_figures(step) for step in list(steps)[:VMS_MAX]]


def _headline(event: Decision) -> str:
    seen, free = event.seen, event.min_free_mib
    has = f"{event.level.value}: {_available(seen, free)}{_pressure(seen)}"
    if isinstance(event, LadderDescended):
        return f"{event.node} has had enough memory for {seen.calm_s} s ({has}), {event.spare_mib} MiB to spare"
    brought = f"{event.short_mib} MiB lack, {event.covered_mib} are to come of this"
    if event.waits:
        return f"{event.node} has not enough memory for {event.waits}, which stands still, to go on ({has}): {brought}"
    if event.level is Level.AMPLE:
        return f"{event.node} will be short of memory ({has}; its VMs are predicted to need {seen.forecast_mib} MiB): {brought}"
    return f"{event.node} is short of memory ({has}): {brought}"


def _available(seen: HostSeen, min_free_mib: int) -> str:
    pct = seen.available_mib * 100 // max(1, min_free_mib)
    fell = f", {seen.fall_mib} less than a second before" if seen.fall_mib else ""
    return f"{seen.available_mib} of {seen.total_mib} MiB available, {pct} % of its minFree of {min_free_mib}{fell}"


def _pressure(seen: HostSeen) -> str:
    if seen.psi_some <= 0 and seen.psi_full <= 0:
        return ""
    return f"; tasks waited for memory {max(0.0, seen.psi_some):g} % of 10 s, all of them {max(0.0, seen.psi_full):g} %"


def _of_step(step: LadderStep, up: bool) -> str:
    vm, before, after = step.vm, step.from_mib, step.to_mib
    match step.rung:
        case Rung.MERGE:
            return f"{vm}: its equal pages are {'merged (KSM)' if up else 'merged no longer'}"
        case Rung.BALLOON:
            verb = "taken by its balloon" if up else "given again by its balloon"
            return f"{vm}: {abs(before - after)} MiB {verb} ({before} to {after})"
        case Rung.SWAP:
            return f"{vm}: {after} MiB of it may be swapped out ({before} before)"
        case Rung.MOVE:
            return f"{vm}: it should run elsewhere" if up else f"{vm}: it need not run elsewhere any more"
        case Rung.PAUSE:
            return f"{vm}: it should stand still until there is memory again" if up else f"{vm}: it may go on"


def _figures(step: LadderStep) -> str:
    words = [f"predicted to need at most {step.demand_mib} MiB in the next half hour"]
    if step.used_mib >= 0:
        words.append(f"used {step.used_mib}")
    if step.reservation_mib >= 0:
        words.append(f"{step.reservation_mib} reserved, of which nothing is ever taken")
    return f"{step.vm}: {', '.join(words)}; price {step.price:g} (the lowest pays first)"
