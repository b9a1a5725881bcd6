"""A start asks for memory, its end gives it back, a node's report sets what there is; the node is told how it is divided. A
migration asks for it on the target and gives back one of the two at its end: both nodes hold theirs until then.

A deletion releases nothing: only a stopped VM is deleted, and its stop has released.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from libs.common.host.service import Order
from libs.common.messages import Command, NodeId, Recorded
from libs.memory.promise import promise_of
from proto.compute import (
    NodeRemoved,
    NodeReported,
    VmAllotmentRequested,
    VmFound,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
)
from proto.growth import VmResized, VmResizeRequested
from proto.ladder import JudgeMemory
from proto.memory import AdvancePolicy, KeepReserve, NoteHost, Purpose, ReleaseMemory, ReserveMemory, ResizeMemory
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationRequested
from proto.reserve import ReserveSet
from services.memory import grips
from services.memory.states import Ledger


def react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    match event:
        case NodeReported():
            can = event.capabilities
            host = NoteHost(
                node=event.node, memory_mib=can.memory_mib, swap_mib=can.swap_mib, balloon=can.balloon,
                memory_areas=can.memory_areas, swap_memory_mib=can.swap_memory_mib, control_plane=can.control_plane,
            )  # fmt: skip
            return [host]
        case ReserveSet(plan=plan):
            kept = {node: plan.shares.get(node, 0) for node in {*views.nodes, *plan.shares}}
            return [KeepReserve(node=node, reserve_mib=mib) for node, mib in sorted(kept.items())]
        case NodeRemoved():
            return [NoteHost(node=event.node, memory_mib=0)]
        case VmStartRequested() | VmFound():
            purpose = _purpose(event)
            promise = promise_of(event.memory_mib, event.priority, event.allotment)
            return [
                ReserveMemory(
                    node=event.node, vm=event.vm, generation=event.generation, promise=promise, purpose=purpose
                )
            ]
        case VmAllotmentRequested():
            return [_allotted(event, views)]
        case VmResizeRequested() if event.memory_mib > event.was_memory_mib:
            return [_sized(event)]
        case VmResized():
            return [_sized(event)]
        case VmMigrationRequested(to=to, vm=vm, incoming=incoming):
            promise = promise_of(event.memory_mib, event.priority, event.allotment)
            wish = ReserveMemory(node=to, vm=vm, generation=incoming, promise=promise, purpose=Purpose.MIGRATION)
            return [wish]
        case VmMigrated(source=source, vm=vm, source_generation=generation):
            return [ReleaseMemory(node=source, vm=vm, generation=generation)]
        case VmStartFailed() | VmStopped() | VmIncomingGone():
            return [ReleaseMemory(node=event.node, vm=event.vm, generation=event.generation)]
        case _:
            return ()


def _purpose(event: VmStartRequested | VmFound) -> Purpose:
    if isinstance(event, VmFound):
        return Purpose.FOUND
    return Purpose.FAILOVER if event.failover else Purpose.START


def _allotted(event: VmAllotmentRequested, views: Any) -> ResizeMemory:
    """What a running VM is worth is to change, and its size, which hot-added memory may have changed, is not."""
    view = views.nodes.get(event.node)
    held = view.vms.get(event.vm) if view is not None else None
    size = held.promise.nominal_mib if held is not None and held.generation == event.generation else event.memory_mib
    promise = promise_of(size, event.priority, event.allotment)
    return ResizeMemory(
        node=event.node, vm=event.vm, generation=event.generation, promise=promise, purpose=Purpose.ALLOTMENT
    )


def _sized(event: VmResizeRequested | VmResized) -> ResizeMemory:
    """Before it grows, and once it is seen what it has: more is never promised than it got."""
    promise = promise_of(event.memory_mib, event.priority, event.allotment)
    return ResizeMemory(
        node=event.node, vm=event.vm, generation=event.generation, promise=promise, purpose=Purpose.HOT_ADD
    )


def ticks(now_us: int, states: Iterator[tuple[str, Any]]) -> Iterable[Command]:
    found: list[Command] = []
    for stream, state in states:
        if not isinstance(state, Ledger):
            continue
        node = stream.removeprefix("ledger-")
        if (state.balloon or state.memory_areas) and (state.reserved or state.grips):
            found.append(JudgeMemory(node=node, now_us=now_us, gripped=bool(state.grips)))
        if state.wanted is not None:
            found.append(AdvancePolicy(node=node, now_us=now_us))
    return found


def orders(stream: str, state: Any, version: int) -> Order | None:
    if not isinstance(state, Ledger):
        return None
    node = NodeId(stream.removeprefix("ledger-"))
    message = grips.order(node, state, version)
    return Order(node, message) if message is not None else None
