"""A start asks for memory, its end gives it back, a node's report sets what there is.

A deletion releases nothing: only a stopped VM is deleted, and its stop has released.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.messages import Command, Recorded
from proto.compute import NodeRemoved, NodeReported, VmFound, VmStartFailed, VmStartRequested, VmStopped
from proto.memory import ReleaseMemory, ReserveMemory, SetCapacity
from services.memory.policy import capacity_mib, footprint_mib


def react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    match event:
        case NodeReported():
            can = event.capabilities
            return [SetCapacity(node=event.node, capacity_mib=capacity_mib(can.memory_mib, can.share))]
        case NodeRemoved():
            return [SetCapacity(node=event.node, capacity_mib=0)]
        case VmStartRequested():
            needed_mib = footprint_mib(event.memory_mib)
            return [ReserveMemory(node=event.node, vm=event.vm, generation=event.generation, memory_mib=needed_mib)]
        case VmFound(node=node, vm=vm, generation=generation):
            needed_mib = footprint_mib(event.memory_mib)
            return [ReserveMemory(node=node, vm=vm, generation=generation, memory_mib=needed_mib, running=True)]
        case VmStartFailed() | VmStopped():
            return [ReleaseMemory(node=event.node, vm=event.vm, generation=event.generation)]
        case _:
            return ()
