"""What the rebalancer knows of the cluster: folded from the log, and demand from telemetry. It says who can be moved and why others
cannot; whether a node is online, and in which version it speaks, is known elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from libs.common.messages import NodeId, VmId
from libs.memory.promise import charge_mib, guaranteed_mib, promise_of, ratio_pct
from proto.balance import ClusterLoad, MoveEnded, MovePlanned, NodeLoad, VmLoad
from proto.compute import (
    NodeCordoned,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    VmAllotted,
    VmFound,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.ladder import MemoryPolicy
from proto.machine import NicKind
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationEnded, VmMigrationRequested
from proto.plan import CpuBeat
from services.compute.balance.demand import Smoothed

_decode_beat = msgspec.msgpack.Decoder(CpuBeat).decode

VCPUS_PER_PCPU_MAX = 8.0
"""vCPUs promised per pCPU to which the rebalancer fills a node."""


STARTING, STOPPING, MOVING, PINNED = "is being started", "is being stopped", "is being moved", "pinned to pCPUs"


@dataclass(slots=True)
class Place:
    """A node. capacity_mib: what starts may be promised; reserved_mib, charged_mib: the ledger's two sums; kept apart from
    `cordoned`, which may be known before the node's report."""

    pcpus: float = 0.0
    pools: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    cordoned: bool = False
    capacity_mib: int = 0
    reserved_mib: int = 0
    charged_mib: int = 0
    ratios: MemoryPolicy = field(default_factory=MemoryPolicy)


@dataclass(slots=True)
class Guest:
    """A VM that has a node, from its start's request to its end. fixed: why it cannot be moved just now; to: the node that it is on
    its way to."""

    asked: VmStartRequested | VmFound
    node: str
    fixed: str = STARTING
    to: str = ""


@dataclass(slots=True)
class BalanceViews:
    places: dict[str, Place] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)
    demand: dict[str, Smoothed] = field(default_factory=dict)
    moving: dict[str, str] = field(default_factory=dict)
    """VM -> target, of moves that the rebalancer decided"""

    def apply(self, event: Any) -> None:
        match event:
            case NodeReported():
                can, place = event.capabilities, self.places.setdefault(event.node, Place())
                place.pcpus, place.pools, place.bridges = can.pcpus / max(1, can.share), can.pools, can.bridges
            case NodeCordoned() | NodeUncordoned():
                self.places.setdefault(event.node, Place()).cordoned = isinstance(event, NodeCordoned)
            case NodeRemoved():
                self.places.pop(event.node, None)
            case CapacitySet() | MemoryReserved() | MemoryReleased():
                self._apply_memory(event)
            case VmStartRequested():
                self.guests[event.vm] = Guest(event, event.node)
            case VmFound():
                self.guests[event.vm] = Guest(event, event.node, fixed="")
            case VmStarted() if guest := self.guests.get(event.vm):
                guest.fixed = ""
            case VmStopRequested() if guest := self.guests.get(event.vm):
                guest.fixed = STOPPING
            case VmAllotted() if guest := self.guests.get(event.vm):
                guest.asked = replace(guest.asked, priority=event.priority, allotment=event.allotment)
            case VmMigrationRequested() | VmMigrated() | VmIncomingGone() | VmMigrationEnded():
                self._apply_migration(event)
            case VmStopped() | VmStartFailed():
                self.guests.pop(event.vm, None)
                self.demand.pop(event.vm, None)
            case MovePlanned():
                self.moving[event.vm] = event.target
            case MoveEnded():
                self.moving.pop(event.vm, None)

    def _apply_migration(self, event: VmMigrationRequested | VmMigrated | VmIncomingGone | VmMigrationEnded) -> None:
        """It takes room of both nodes until it is on one of them."""
        if (guest := self.guests.get(event.vm)) is None:
            return
        match event:
            case VmMigrationRequested():
                guest.fixed, guest.to = MOVING, event.to
            case VmMigrated():
                guest.node, guest.to = event.node, ""
            case VmIncomingGone() | VmMigrationEnded():
                guest.fixed, guest.to = STOPPING if guest.fixed == STOPPING else "", ""

    def _apply_memory(self, event: CapacitySet | MemoryReserved | MemoryReleased) -> None:
        place = self.places.setdefault(event.node, Place())
        if isinstance(event, CapacitySet):
            place.capacity_mib, place.ratios = event.capacity_mib - event.share_mib, event.policy
            place.reserved_mib, place.charged_mib = event.promised_mib, event.charged_mib
        else:
            place.reserved_mib, place.charged_mib = event.reserved_mib, event.charged_mib

    def hear(self, subject: str, data: bytes, now_us: int) -> None:
        """`tel.NODE.cpu`: what each VM uses and waits for. Only of VMs of that node, and only in its own name."""
        beat = _decode_beat(data)
        if subject != f"tel.{beat.node}.cpu":
            return
        for vm in beat.vms:
            guest = self.guests.get(vm.vm)
            if guest is not None and guest.node == beat.node:
                self._wants(vm.vm, vm.demand_pct / 100, now_us)

    def _wants(self, vm: str, pcpus: float, now_us: int) -> None:
        if vm in self.demand:
            self.demand[vm].hear(pcpus, now_us)
        else:
            self.demand[vm] = Smoothed(pcpus, now_us)

    # --- out ------------------------------------------------------------------------------------------------------

    def load(self, online: Callable[[str], bool]) -> ClusterLoad:
        """Nodes that take part, and the VMs on them: those that cannot be moved just now, too, with the reason; those on their way
        are on both nodes. All else that the ledgers hold counts as kept."""
        open = {name: p for name, p in sorted(self.places.items()) if p.pcpus > 0 and not p.cordoned and online(name)}
        vms = [vm for _, guest in sorted(self.guests.items()) for vm in self._vms(guest, open)]
        return ClusterLoad(nodes=tuple(_node(name, place, vms) for name, place in open.items()), vms=tuple(vms))

    def running(self, load: ClusterLoad) -> int:
        """VMs in it, those on their way counted once."""
        return sum(vm.vm in self.guests for vm in load.vms)

    def _vms(self, guest: Guest, open: dict[str, Place]) -> Iterable[VmLoad]:
        if guest.node in open:
            yield self._vm(guest, open[guest.node], guest.asked.vm, guest.node)
        if guest.to in open:
            yield self._vm(guest, open[guest.to], f"{guest.asked.vm}@{guest.to}", guest.to)

    def _vm(self, guest: Guest, place: Place, name: str, node: str) -> VmLoad:
        asked = guest.asked
        smoothed = self.demand.get(name)
        return VmLoad(
            vm=VmId(name),
            node=NodeId(node),
            vcpus=asked.vcpus,
            memory_mib=guaranteed_mib(promise_of(asked.memory_mib, asked.priority, asked.allotment)),
            charged_mib=charge_mib(asked.memory_mib, ratio_pct(place.ratios, asked.priority)),
            demand_pcpus=smoothed.pcpus if smoothed else 0.0,
            priority=asked.priority,
            together=asked.allotment.together,
            apart=asked.allotment.apart,
            fixed=guest.fixed or (PINNED if asked.allotment.pins else ""),
            pools=tuple(sorted({d.pool for d in asked.disks})),
            bridges=tuple(sorted({n.bridge for n in asked.nics if n.kind is NicKind.BRIDGE})),
        )


def _node(name: str, place: Place, vms: list[VmLoad]) -> NodeLoad:
    here = [vm for vm in vms if vm.node == name]
    return NodeLoad(
        node=NodeId(name),
        pcpus=place.pcpus,
        memory_mib=max(0, place.capacity_mib),
        vcpus_max=max(1, int(place.pcpus * VCPUS_PER_PCPU_MAX)),
        kept_mib=max(0, place.reserved_mib - sum(vm.memory_mib for vm in here)),
        kept_charged_mib=max(0, place.charged_mib - sum(vm.charged_mib for vm in here)),
        pools=place.pools,
        bridges=place.bridges,
    )
