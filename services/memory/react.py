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
from proto.compute import NodeRemoved, NodeReported, VmAllotted, VmFound, VmStartFailed, VmStartRequested, VmStopped
from proto.ladder import JudgeMemory
from proto.memory import NoteHost, Purpose, ReleaseMemory, ReserveMemory, ResizeMemory
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationRequested
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
        case NodeRemoved():
            return [NoteHost(node=event.node, memory_mib=0)]
        case VmStartRequested() | VmFound():
            purpose = Purpose.FOUND if isinstance(event, VmFound) else Purpose.START
            promise = promise_of(event.memory_mib, event.priority, event.allotment)
            return [
                ReserveMemory(
                    node=event.node, vm=event.vm, generation=event.generation, promise=promise, purpose=purpose
                )
            ]
        case VmAllotted():
            return _allotted(event, views)
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


def _allotted(event: VmAllotted, views: Any) -> Sequence[Command]:
    """What a running VM is worth changed. Where its node does not hold the new promise, it keeps the one it has until its next
    start."""
    node, generation = views.holders.of.get(event.vm, ("", 0))
    held = views.nodes[node].vms.get(event.vm) if node in views.nodes else None
    if held is None or held.generation != generation:
        return ()
    promise = promise_of(held.promise.nominal_mib, event.priority, event.allotment)
    return [ResizeMemory(node=node, vm=event.vm, generation=generation, promise=promise, purpose=Purpose.ALLOTMENT)]


def ticks(now_us: int, states: Iterator[tuple[str, Any]]) -> Iterable[Command]:
    return [
        JudgeMemory(node=stream.removeprefix("ledger-"), now_us=now_us, gripped=bool(state.grips))
        for stream, state in states
        if isinstance(state, Ledger) and (state.balloon or state.memory_areas) and (state.reserved or state.grips)
    ]


def orders(stream: str, state: Any, version: int) -> Order | None:
    if not isinstance(state, Ledger):
        return None
    node = NodeId(stream.removeprefix("ledger-"))
    message = grips.order(node, state, version)
    return Order(node, message) if message is not None else None
