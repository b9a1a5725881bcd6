"""What memory knows of its nodes beside their ledgers: what their agents say once a second, and what VMs needed in the past two
hours. Telemetry starts anew with the process; until three intervals were seen a VM counts for its host with what the ledger
counts, or uses already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from libs.common.host import hearing
from libs.common.messages import Recorded
from proto.ladder import HostSeen, JudgeMemory, MemoryPolicy, VmSeen
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved, Promise, ReserveMemory, ResizeMemory
from proto.node import MemoryBeat, VmMemory
from services.memory import demand, ladder
from services.memory.admit import unknown_mib
from services.memory.demand import Window
from services.memory.regions import Holders, fill

FRESH_US = 5_000_000
"""a node not heard for longer is not judged"""
FORECAST_US = 10_000_000
"""how long a forecast is good for before it is made again"""

_decode_beat = msgspec.msgpack.Decoder(MemoryBeat).decode


@dataclass(slots=True)
class VmView:
    NOT_OF_LOG: ClassVar = frozenset({"window"})

    generation: int
    promise: Promise
    window: Window = field(default_factory=Window)


@dataclass(slots=True)
class NodeView:
    NOT_OF_LOG: ClassVar = frozenset({"beat", "heard_us", "short_us", "forecast_mib", "forecast_us", "fall_mib"})

    policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    capacity_mib: int = 0
    vms: dict[str, VmView] = field(default_factory=dict)
    beat: MemoryBeat | None = None
    heard_us: int = 0
    short_us: int = 0
    """when it last had not more than enough, or was not heard before"""
    forecast_mib: int = 0
    forecast_us: int = 0
    fall_mib: int = 0
    """by how much less was available than at the beat before"""


@dataclass(slots=True)
class Views:
    nodes: dict[str, NodeView] = field(default_factory=dict)
    holders: Holders = field(default_factory=Holders)

    def apply(self, recorded: Recorded, event: Any) -> None:
        hearing.tell(self, recorded, event)

    def _capacity(self, recorded: Recorded, event: CapacitySet) -> None:
        node = self.nodes.setdefault(event.node, NodeView())
        node.policy, node.capacity_mib = event.policy, event.capacity_mib

    def _reserved(self, recorded: Recorded, event: MemoryReserved) -> None:
        node = self.nodes.get(event.node)
        if node is None:
            node = self.nodes[event.node] = NodeView()
        held = node.vms.get(event.vm)
        same = held is not None and held.generation == event.generation
        window = held.window if held is not None and same else Window()
        node.vms[event.vm] = VmView(event.generation, event.promise, window)
        node.forecast_us = 0

    def _released(self, recorded: Recorded, event: MemoryReleased) -> None:
        if node_view := self.nodes.get(event.node):
            node_view.vms.pop(event.vm, None)
            node_view.forecast_us = 0

    HEARS: ClassVar[hearing.Heard] = {CapacitySet: _capacity, MemoryReserved: _reserved, MemoryReleased: _released}
    PARTS: ClassVar[tuple[str, ...]] = ("holders",)

    def fresh(self, node: str, now_us: int) -> NodeView | None:
        view = self.nodes.get(node)
        fresh = view is not None and view.beat is not None and now_us - view.heard_us <= FRESH_US
        return view if fresh else None

    def forecast(self, view: NodeView, now_us: int) -> int:
        """What the node's VMs are predicted to need together, QEMU's own included."""
        if not view.forecast_us or now_us - view.forecast_us >= FORECAST_US:
            view.forecast_mib, view.forecast_us = _forecast(view, ""), now_us
        return view.forecast_mib

    def seen(self, view: NodeView, now_us: int) -> HostSeen | None:
        """The node's latest word, with what is predicted of it."""
        if view.beat is None:
            return None
        calm_s = max(0, now_us - view.short_us) // 1_000_000
        return replace(_host(view.beat, now_us), forecast_mib=self.forecast(view, now_us), calm_s=calm_s, fall_mib=view.fall_mib)


def _forecast(view: NodeView, without: str) -> int:
    vms = [vm for name, vm in view.vms.items() if name != without]
    known = [vm for vm in vms if vm.window.known]
    predicted = demand.of_host((vm.window.peaks, vm.promise.nominal_mib) for vm in known)
    own = sum(vm.promise.overhead_mib for vm in known)
    return predicted + own + _of_young([vm for vm in vms if not vm.window.known], view.policy)


def _of_young(vms: Sequence[VmView], policy: MemoryPolicy) -> int:
    """Together: what the ledger counts for them, or what they were seen to use already where that is more."""
    counted = sum(unknown_mib(vm.promise, policy) for vm in vms)
    return max(counted, sum(_used(vm) for vm in vms))


def _used(vm: VmView) -> int:
    promise = vm.promise
    highest = round(max(vm.window.peaks, default=0) + demand.MARGIN * promise.nominal_mib)
    return min(promise.nominal_mib, highest) + promise.overhead_mib


def hear(subject: str, data: bytes, now_us: int, views: Views) -> None:
    """`tel.NODE.memory`. Only in the node's own name, and of VMs that its ledger knows under that generation."""
    view = views.nodes.get(subject.split(".")[1])
    if view is None or not subject.endswith(".memory"):
        return
    beat = _decode_beat(data)
    if subject != f"tel.{beat.node}.memory":
        return
    silent = now_us - view.heard_us > FRESH_US
    before = view.beat if view.beat is not None and not silent else beat
    view.fall_mib = max(0, before.available_mib - beat.available_mib)
    view.beat, view.heard_us = beat, now_us
    if silent or not ladder.calm(_host(beat, now_us)):
        view.short_us = now_us
    for seen in beat.vms:
        vm = view.vms.get(seen.vm)
        if vm is not None and vm.generation == seen.generation:
            vm.window.note(now_us, _needs(seen, vm.promise))


def _needs(seen: VmMemory, promise: Promise) -> int:
    """Guest memory in use. Where the guest does not say: all that is resident or swapped out and not QEMU's own."""
    if seen.balloon_mib >= 0 and seen.guest_available_mib >= 0:
        used = seen.balloon_mib - seen.guest_available_mib
    else:
        used = seen.resident_mib + seen.swapped_mib - promise.overhead_mib
    return max(0, min(promise.nominal_mib, used))


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only telemetry may say, whoever sent the command."""
    match command:
        case JudgeMemory():
            return _judged(command, views, now_us)
        case ReserveMemory() | ResizeMemory():
            view = views.fresh(command.node, now_us)
            return replace(command, forecast_mib=_forecast(view, command.vm) if view is not None else -1)
        case _:
            return fill(command, views.holders)


def _judged(command: JudgeMemory, views: Views, now_us: int) -> JudgeMemory:
    view = views.fresh(command.node, now_us)
    if view is None or view.beat is None:
        return replace(command, seen=None, vms=())
    seen = views.seen(view, now_us)
    if seen is None or (not command.gripped and ladder.calm(seen) and seen.forecast_mib <= view.capacity_mib):
        return replace(command, seen=None, vms=())
    vms = (_vm(v, view.vms[v.vm]) for v in view.beat.vms if v.vm in view.vms)
    return replace(command, seen=seen, vms=tuple(vms))


def _host(beat: MemoryBeat, now_us: int) -> HostSeen:
    return HostSeen(
        at_us=now_us,
        total_mib=beat.total_mib,
        available_mib=beat.available_mib,
        swap_free_mib=beat.swap_free_mib,
        psi_some=beat.psi_some_avg10,
        psi_full=beat.psi_full_avg10,
    )


def _vm(seen: VmMemory, vm: VmView) -> VmSeen:
    promise, window = vm.promise, vm.window
    return VmSeen(
        vm=seen.vm,
        generation=seen.generation,
        resident_mib=seen.resident_mib,
        swapped_mib=seen.swapped_mib,
        held_mib=seen.balloon_mib,
        demand_mib=demand.of_vm(window, promise.nominal_mib),
        used_mib=_needs(seen, promise),
    )
