"""What the rebalancer knows of the cluster: folded from the log, and demand from telemetry. It says who can be moved and why others
cannot; whether a node is online, and in which version it speaks, is known elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from libs.common.host import hearing
from libs.common.messages import NodeId, Recorded, VmId
from libs.memory.promise import charge_mib, guaranteed_mib, promise_of, ratio_pct
from proto.balance import ClusterLoad, MoveEnded, MovePlanned, NodeLoad, VmLoad
from proto.cluster import PlacementSet
from proto.compute import (
    NodeCordoned,
    NodeHealthChanged,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    VmAllotted,
    VmDefined,
    VmDeleted,
    VmDevicesNoted,
    VmFound,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.drain import NodeDrained, NodeDrainEnded, NodeDrainRequested
from proto.growth import VmResized
from proto.io import NetworkChanged, NetworkCreated, NetworkDeleted
from proto.ladder import MemoryPolicy
from proto.machine import Allotment, DiskWish, Firmware, NicWish, Priority
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationEnded, VmMigrationRequested
from proto.nodes import Capabilities
from proto.placement import PlacementRules
from proto.plan import CpuBeat, PlanMade
from services.compute.balance.demand import Smoothed
from services.compute.devices import rooted, wishes
from services.compute.networks import Networks
from services.compute.policy import HEALTH_PCT_MIN
from services.compute.reach import UEFI, bootable, reached, shared_with

_decode_beat = msgspec.msgpack.Decoder(CpuBeat).decode

REPLANNED_US = 120_000_000
"""A node's own plan comes first: for so long after it gave VMs other cells, what that did is waited for."""

STARTING, STOPPING, MOVING, PINNED = "is being started", "is being stopped", "is being moved", "pinned to pCPUs"
DRAINED, REPLANNED = "its node is being drained", "its node was planned anew a moment ago"


RARE = (
    *(NodeReported, NodeCordoned, NodeUncordoned, NodeHealthChanged, NodeDrainRequested, NodeDrained),
    *(NodeDrainEnded, PlacementSet, NodeRemoved, VmFound, VmAllotted, VmResized, MovePlanned, MoveEnded),
    *(NetworkCreated, NetworkChanged, NetworkDeleted),
)


@dataclass(slots=True)
class Place:
    """A node. capacity_mib: what starts may be promised; reserved_mib, charged_mib: the ledger's two sums; kept apart from
    `cordoned`, which may be known before the node's report; can: what that said."""

    pcpus: float = 0.0
    pools: tuple[str, ...] = ()
    can: Capabilities | None = None
    cordoned: bool = False
    capacity_mib: int = 0
    reserved_mib: int = 0
    charged_mib: int = 0
    ratios: MemoryPolicy = field(default_factory=MemoryPolicy)
    ill: bool = False
    """its health is too low for new VMs"""
    drained: bool = False
    replanned_us: int = 0


class Guest(msgspec.Struct, gc=False):
    """A VM that has a node, from its start's request to its end, with what it was asked to be. fixed: why it cannot be moved just
    now; to: the node that it is on its way to."""

    vm: str
    node: str
    vcpus: int
    memory_mib: int
    priority: Priority
    allotment: Allotment
    disks: tuple[DiskWish, ...]
    nics: tuple[NicWish, ...]
    fixed: str = STARTING
    to: str = ""


@dataclass(slots=True)
class BalanceViews:
    NOT_OF_LOG: ClassVar = frozenset({"demand"})

    places: dict[str, Place] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)
    demand: dict[str, Smoothed] = field(default_factory=dict)
    moving: dict[str, str] = field(default_factory=dict)
    """VM -> target, of moves that the rebalancer decided and that have begun"""
    rules: PlacementRules = field(default_factory=PlacementRules)
    uefi: set[str] = field(default_factory=set)
    """VMs that go only where such firmware is"""
    networks: Networks = field(default_factory=Networks)

    def apply(self, event: Any) -> None:
        if (does := self.HEARS.get(type(event))) is not None:
            does(self, hearing.UNRECORDED, event)

    def _rare(self, recorded: Recorded, event: Any) -> None:
        match event:
            case NetworkCreated() | NetworkChanged() | NetworkDeleted():
                self.networks.apply(event)
            case NodeReported():
                can, place = event.capabilities, self.places.setdefault(event.node, Place())
                place.pcpus, place.pools = can.pcpus / max(1, can.share), (*reached(can), *bootable(can))
                place.can = can
            case NodeCordoned() | NodeUncordoned():
                self.places.setdefault(event.node, Place()).cordoned = isinstance(event, NodeCordoned)
            case NodeHealthChanged():
                self.places.setdefault(event.node, Place()).ill = event.health_pct < HEALTH_PCT_MIN
            case NodeDrainRequested() | NodeDrained() | NodeDrainEnded():
                self.places.setdefault(event.node, Place()).drained = isinstance(event, NodeDrainRequested)
            case PlacementSet():
                self.rules = event.rules
            case NodeRemoved():
                self.places.pop(event.node, None)
            case VmFound():
                self.guests[event.vm] = _guest(event, "")
            case VmAllotted() if guest := self.guests.get(event.vm):
                guest.priority, guest.allotment = event.priority, event.allotment
            case VmResized() if guest := self.guests.get(event.vm):
                guest.vcpus, guest.memory_mib = event.vcpus, event.memory_mib
            case MovePlanned() if not event.waits:
                self.moving[event.vm] = event.target
            case MoveEnded():
                self.moving.pop(event.vm, None)

    def _defined(self, recorded: Recorded, event: VmDefined) -> None:
        if event.shape.firmware is Firmware.UEFI:
            self.uefi.add(event.vm)

    def _deleted(self, recorded: Recorded, event: VmDeleted) -> None:
        self.uefi.discard(event.vm)

    def _stopping(self, recorded: Recorded, event: VmStopRequested) -> None:
        if guest := self.guests.get(event.vm):
            guest.fixed = STOPPING

    def _reserved(self, recorded: Recorded, event: MemoryReserved | MemoryReleased) -> None:
        place = self.places.get(event.node)
        if place is None:
            place = self.places[event.node] = Place()
        place.reserved_mib, place.charged_mib = event.reserved_mib, event.charged_mib

    def _asked(self, recorded: Recorded, event: VmStartRequested) -> None:
        self.guests[event.vm] = _guest(event, STARTING)

    def _started(self, recorded: Recorded, event: VmStarted) -> None:
        if (guest := self.guests.get(event.vm)) is not None:
            guest.fixed = ""

    def _ended(self, recorded: Recorded, event: VmStopped | VmStartFailed) -> None:
        self.guests.pop(event.vm, None)
        self.demand.pop(event.vm, None)

    def _planned(self, recorded: Recorded, event: PlanMade) -> None:
        if event.moved:
            self.places.setdefault(event.node, Place()).replanned_us = event.at_us

    def _noted(self, recorded: Recorded, event: VmDevicesNoted) -> None:
        if event.changed and (guest := self.guests.get(event.vm)):
            guest.disks, guest.nics = wishes(event.disks, event.nics)

    def _moves(self, recorded: Recorded, event: VmMigrationRequested | VmMigrated | VmIncomingGone | VmMigrationEnded) -> None:
        """It takes room of both nodes until it is on one of them."""
        if (guest := self.guests.get(event.vm)) is None:
            return
        match event:
            case VmMigrationEnded():
                guest.fixed, guest.to = STOPPING if guest.fixed == STOPPING else "", ""
            case VmMigrationRequested():
                guest.fixed, guest.to = MOVING, event.to
            case VmMigrated():
                guest.node, guest.to = event.node, ""
            case VmIncomingGone():
                guest.fixed, guest.to = STOPPING if guest.fixed == STOPPING else "", ""

    def _capacity(self, recorded: Recorded, event: CapacitySet) -> None:
        place = self.places.setdefault(event.node, Place())
        place.capacity_mib, place.ratios = event.capacity_mib - event.share_mib, event.policy
        place.reserved_mib, place.charged_mib = event.promised_mib, event.charged_mib

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys(RARE, _rare),
        **dict.fromkeys((MemoryReserved, MemoryReleased), _reserved),
        **dict.fromkeys((VmStopped, VmStartFailed), _ended),
        **dict.fromkeys((VmMigrationRequested, VmMigrated, VmIncomingGone, VmMigrationEnded), _moves),
        VmDefined: _defined,
        VmDeleted: _deleted,
        VmStopRequested: _stopping,
        CapacitySet: _capacity,
        VmStartRequested: _asked,
        VmStarted: _started,
        PlanMade: _planned,
        VmDevicesNoted: _noted,
    }

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

    def load(self, online: Callable[[str], bool], now_us: int = 0) -> ClusterLoad:
        """Nodes that take part, and the VMs on them: those that cannot be moved just now, too, with the reason; those on their way
        are on both nodes. All else that the ledgers hold counts as kept."""
        open = {name: p for name, p in sorted(self.places.items()) if p.pcpus > 0 and online(name)}
        vms = [vm for _, guest in sorted(self.guests.items()) for vm in self._vms(guest, open, now_us)]
        used = sorted({name for vm in vms for name in vm.networks})
        nodes = tuple(self._node(name, place, vms, used) for name, place in open.items())
        return ClusterLoad(nodes=nodes, vms=tuple(vms))

    def under_way(self) -> tuple[str, ...]:
        """VMs that are being migrated, whoever wanted it."""
        return tuple(sorted(vm for vm, guest in self.guests.items() if guest.fixed == MOVING))

    def running(self, load: ClusterLoad) -> int:
        """VMs in it, those on their way counted once."""
        return sum(vm.vm in self.guests for vm in load.vms)

    def _vms(self, guest: Guest, open: dict[str, Place], now_us: int) -> Iterable[VmLoad]:
        if guest.node in open:
            yield self._vm(guest, open[guest.node], guest.vm, guest.node, now_us)
        if guest.to in open:
            yield self._vm(guest, open[guest.to], f"{guest.vm}@{guest.to}", guest.to, now_us)

    def _vm(self, guest: Guest, place: Place, name: str, node: str, now_us: int) -> VmLoad:
        replanned = place.replanned_us and now_us - place.replanned_us < REPLANNED_US
        of_node = DRAINED if place.drained else REPLANNED if replanned else ""
        smoothed = self.demand.get(name)
        return VmLoad(
            vm=VmId(name),
            node=NodeId(node),
            vcpus=guest.vcpus,
            memory_mib=guaranteed_mib(promise_of(guest.memory_mib, guest.priority, guest.allotment)),
            charged_mib=charge_mib(guest.memory_mib, ratio_pct(place.ratios, guest.priority)),
            demand_pcpus=smoothed.pcpus if smoothed else 0.0,
            priority=guest.priority,
            together=guest.allotment.together,
            apart=guest.allotment.apart,
            fixed=guest.fixed or (PINNED if guest.allotment.pins else rooted(guest.disks) or of_node),
            vcpus_per_pcpu=self.rules.ratio_of(guest.priority),
            pools=(*shared_with(guest.disks, place.pools), *((UEFI,) if guest.vm in self.uefi else ())),
            networks=self.networks.names(guest.nics),
        )

    def _node(self, name: str, place: Place, vms: list[VmLoad], used: list[str]) -> NodeLoad:
        here = [vm for vm in vms if vm.node == name]
        ratio = self.rules.ratio_on(name, {vm.priority for vm in here} if self.rules.classes else frozenset())
        return NodeLoad(
            node=NodeId(name),
            pcpus=place.pcpus,
            memory_mib=max(0, place.capacity_mib),
            vcpus_max=max(1, int(place.pcpus * ratio)),
            kept_mib=max(0, place.reserved_mib - sum(vm.memory_mib for vm in here)),
            kept_charged_mib=max(0, place.charged_mib - sum(vm.charged_mib for vm in here)),
            pools=place.pools,
            networks=self.networks.had(place.can, used) if place.can is not None else (),
            cordoned=place.cordoned or place.ill,
        )


def _guest(event: VmStartRequested | VmFound, fixed: str) -> Guest:
    return Guest(
        event.vm, event.node, event.vcpus, event.memory_mib, event.priority, event.allotment, event.disks, event.nics, fixed
    )
