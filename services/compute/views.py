"""What compute knows of others when it decides: nodes and their load, images, who was heard lately. Folded from the log, except
for heartbeats, which are telemetry and start anew with the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from msgspec.structs import replace

from libs.common.host import hearing
from libs.common.messages import Recorded, decode_meta
from libs.memory.promise import promise_of
from proto.cluster import ClusterFinalized, IncarnationBegan, PlacementSet
from proto.compute import (
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
from proto.growth import VmReshaped, VmResized
from proto.io import DevicesChanged, ImageDeleteRequested, ImageImported, NetworkChanged, NetworkCreated, NetworkDeleted
from proto.machine import Allotment, Priority
from proto.memory import Promise
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationEnded, VmMigrationRequested
from proto.nodes import Capabilities
from proto.placement import PlacementRules
from proto.pools import PoolSet
from services.compute import node_views
from services.compute.balance.facts import BalanceViews
from services.compute.bare import Bare
from services.compute.devices import wishes
from services.compute.fleet import HINT_US_MAX, SILENCE_US_MAX, Fleet, Hint, NodeView
from services.compute.lifetime_table import LifetimeTable
from services.compute.lost import LostNodes
from services.compute.networks import Networks
from services.compute.plan_views import PlanViews
from services.compute.policy import WEIGHTS, NodeFacts, Weights
from services.compute.pressed import Stilled
from services.compute.reach import Homes
from services.compute.rooms import PoolRooms
from services.compute.shares import promise_to, share
from services.compute.starts import Start, begun


class _Derived:
    """Beside the fields of the views, which go into snapshots: what is made of them."""

    __slots__ = ("fleet",)
    fleet: Fleet


@dataclass(slots=True)
class Views(_Derived):
    """Placement facts and image facts. starts: the latest start of each VM that has a node. numbers: of all nodes that ever
    joined, in that order. owners: of each defined VM, project and owner. rules: what is set for placement. at: the node of
    each VM that runs and is not being stopped; moves: the migrations that are not over."""

    nodes: dict[str, NodeView] = field(default_factory=dict)
    vms: dict[str, VmDefined] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)
    at: dict[str, str] = field(default_factory=dict)
    moves: dict[str, VmMigrationRequested] = field(default_factory=dict)
    images: dict[str, ImageImported] = field(default_factory=dict)
    hints: dict[str, Hint] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    lifetimes: LifetimeTable = field(default_factory=LifetimeTable)
    rules: PlacementRules = field(default_factory=PlacementRules)
    balance: BalanceViews = field(default_factory=BalanceViews)
    plans: PlanViews = field(default_factory=PlanViews)
    stilled: Stilled = field(default_factory=Stilled)
    homes: Homes = field(default_factory=Homes)
    rooms: PoolRooms = field(default_factory=PoolRooms)
    lost: LostNodes = field(default_factory=LostNodes)
    bare: Bare = field(default_factory=Bare)
    networks: Networks = field(default_factory=Networks)
    incarnation: int = 1
    finalized: int = 1

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.nodes, self.hints, self.numbers, self.rules)  # type: ignore[misc]  # mypy sees own slots only
        self._look_out(0)

    def _look_out(self, now_us: int) -> None:
        """Lifetimes are looked at from when a set of weights that counts them is first in force."""
        if not self.fleet.looks_out and any(self.weights(p).lifetime for p in Priority):
            self.fleet.lives({vm: (start.node, start.life) for vm, start in self.starts.items()}, now_us)

    def weights(self, priority: Priority) -> Weights:
        """The placement policy in force for VMs of that class."""
        return WEIGHTS[self.rules.weights_of(priority)]

    def apply(self, recorded: Recorded, event: Any) -> None:
        hearing.tell(self, recorded, event)

    def _network(self, recorded: Recorded, event: NetworkCreated | NetworkChanged | NetworkDeleted) -> None:
        self.networks.apply(event)

    def _started(self, recorded: Recorded, event: VmStarted) -> None:
        vm = event.vm
        self.homes.settled(vm)
        self.at[vm] = event.node
        if (start := self.starts.get(vm)) is not None:
            start.life.since_us, start.life.ran = recorded.at_us, True

    def _found(self, recorded: Recorded, event: VmFound) -> None:
        if defined := self.vms.get(event.vm):
            self.vms[event.vm] = replace(defined, disks=event.disks, nics=event.nics)
        self.at[event.vm] = event.node
        self.fleet.hinted(event.vm, None)
        promise = promise_of(event.memory_mib, event.priority, event.allotment)
        self._take(event.node, event.vm, event.vcpus, event.allotment, promise)

    def _stopping(self, recorded: Recorded, event: VmStopRequested) -> None:
        self.at.pop(event.vm, None)

    def _cluster(self, recorded: Recorded, event: Any) -> None:
        match event:
            case IncarnationBegan():
                self.incarnation = event.incarnation
            case ClusterFinalized():
                self.finalized = event.protocol
            case PlacementSet():
                self.rules = event.rules
                self.fleet.ruled(event.rules)
                self._look_out(recorded.at_us)
            case PoolSet():
                self.rooms.rules[event.pool] = event.rules
                for name in self.nodes:
                    node_views.roomy(self, name)
            case ImageImported():
                self.images[event.image] = event
            case ImageDeleteRequested():
                self.images.pop(event.image, None)

    def _defined(self, recorded: Recorded, event: VmDefined) -> None:
        self.vms[event.vm] = event
        self.owners[event.vm] = _owner(recorded)

    def _deleted(self, recorded: Recorded, event: VmDeleted) -> None:
        self.homes.gone(event.vm)
        self.vms.pop(event.vm, None)
        self.owners.pop(event.vm, None)

    def _noted(self, recorded: Recorded, event: VmDevicesNoted) -> None:
        vm = event.vm
        self.homes.noted(event, vm in self.at and vm not in self.moves)
        if event.changed and (defined := self.vms.get(vm)) is not None:
            disks, nics = wishes(event.disks, event.nics)
            self.vms[vm] = replace(defined, disks=disks, nics=nics)

    def _changed(self, recorded: Recorded, event: DevicesChanged) -> None:
        self.homes.changed(event)

    def _sized(self, recorded: Recorded, event: VmAllotted | VmReshaped | VmResized) -> None:
        defined = self.vms.get(event.vm)
        if defined is None:
            return
        if isinstance(event, VmAllotted):
            self._apply_allotted(event, defined)
        else:
            self._apply_size(event, defined)

    def _apply_start(self, recorded: Recorded, event: VmStartRequested) -> None:
        promise = promise_of(event.memory_mib, event.priority, event.allotment)
        held, vm = share(event.vcpus, event.allotment, promise), event.vm
        self.fleet.hinted(vm, Hint(event.node, held, promise, recorded.at_us + HINT_US_MAX))
        if view := self.nodes.get(event.node):
            view.vms[vm] = held
            self.fleet.takes(event.node, vm)
        if (before := self.starts.get(vm)) is not None:
            self.lifetimes.ended(before.life, recorded.at_us)
        owner = self.owners.get(vm, "")
        life = self.lifetimes.kind(owner, event.vcpus, recorded.at_us)
        self.lifetimes.began(owner, life, recorded.at_us)
        self.starts[vm] = begun(event, life)
        self.fleet.begun(vm, event.node, life, recorded.at_us)

    def _apply_allotted(self, event: VmAllotted, defined: VmDefined) -> None:
        self.vms[event.vm] = replace(defined, priority=event.priority, allotment=event.allotment)
        for node in [n for n in self.fleet.on.get(event.vm, ()) if n in self.nodes and event.vm in self.nodes[n].vms]:
            self._take(node, event.vm, defined.shape.vcpus, event.allotment, promise_to(self.vms[event.vm]))

    def _apply_size(self, event: VmReshaped | VmResized, defined: VmDefined) -> None:
        if isinstance(event, VmReshaped):
            self.vms[event.vm] = replace(defined, shape=event.shape)
            return
        shape = replace(defined.shape, vcpus=event.vcpus, memory_mib=event.memory_mib)
        self.vms[event.vm] = replace(defined, shape=shape)
        self._take(event.node, event.vm, event.vcpus, defined.allotment, promise_to(self.vms[event.vm]))

    def _apply_end(self, recorded: Recorded, event: VmStartFailed | VmStopped) -> None:
        if type(event) is VmStartFailed:
            self.homes.failed(event.vm)
        vm = event.vm
        self.at.pop(vm, None)
        self.moves.pop(vm, None)
        self.fleet.hinted(vm, None)
        self.fleet.ended(vm)
        if (start := self.starts.pop(vm, None)) is not None:
            self.lifetimes.ended(start.life, recorded.at_us)
        self._left(event.node, vm)

    def _moves(self, recorded: Recorded, event: VmMigrationRequested) -> None:
        """The VM counts on both nodes until one of the two is over."""
        self.moves[event.vm] = event
        promise = promise_of(event.memory_mib, event.priority, event.allotment)
        until_us = recorded.at_us + HINT_US_MAX
        self.fleet.hinted(event.vm, Hint(event.to, share(event.vcpus, event.allotment, promise), promise, until_us))
        self._take(event.to, event.vm, event.vcpus, event.allotment, promise)

    def _moved(self, recorded: Recorded, event: VmMigrated) -> None:
        self.homes.settled(event.vm)
        self._left(event.source, event.vm)
        if event.vm in self.at:
            self.at[event.vm] = event.node
        if (start := self.starts.get(event.vm)) is not None:
            start.node, start.generation = event.node, event.generation
            self.fleet.ended(event.vm)
            self.fleet.begun(event.vm, event.node, start.life, recorded.at_us)

    def _not_moved(self, recorded: Recorded, event: VmIncomingGone) -> None:
        self.homes.failed(event.vm)
        self.moves.pop(event.vm, None)
        self.fleet.hinted(event.vm, None)
        self._left(event.node, event.vm)

    def _arrived(self, recorded: Recorded, event: VmMigrationEnded) -> None:
        self.moves.pop(event.vm, None)

    def _left(self, node: str, vm: str) -> None:
        if view := self.nodes.get(node):
            view.vms.pop(vm, None)
            self.fleet.leaves(node, vm)

    def _take(self, node: str, vm: str, vcpus: int, allotment: Allotment, promise: Promise) -> None:
        """The VM counts on that node."""
        if view := self.nodes.get(node):
            view.vms[vm] = share(vcpus, allotment, promise)
            self.fleet.takes(node, vm)

    HEARS: ClassVar[hearing.Heard] = {
        **node_views.HEARS,
        **dict.fromkeys((NetworkCreated, NetworkChanged, NetworkDeleted), _network),
        **dict.fromkeys((IncarnationBegan, ClusterFinalized, PlacementSet, PoolSet, ImageImported, ImageDeleteRequested), _cluster),
        **dict.fromkeys((VmAllotted, VmReshaped, VmResized), _sized),
        **dict.fromkeys((VmStartFailed, VmStopped), _apply_end),
        VmMigrationRequested: _moves,
        VmMigrated: _moved,
        VmIncomingGone: _not_moved,
        VmMigrationEnded: _arrived,
        VmDefined: _defined,
        VmDeleted: _deleted,
        VmDevicesNoted: _noted,
        DevicesChanged: _changed,
        VmStartRequested: _apply_start,
        VmStarted: _started,
        VmFound: _found,
        VmStopRequested: _stopping,
    }
    PARTS: ClassVar[tuple[str, ...]] = ("balance", "plans", "stilled", "bare")
    NOT_OF_LOG: ClassVar = frozenset({"hints"})

    def unheard(self, incarnation: int) -> tuple[str, ...]:
        """Nodes that have not told what they run since the log began this incarnation, by name. Not before the views have come to
        that beginning is anything known of them: until then it is all, and at least one that has no name."""
        if self.incarnation < incarnation:
            return tuple(sorted(self.nodes)) or ("any node",)
        return tuple(sorted(name for name, node in self.nodes.items() if node.spoken < incarnation))

    def online(self, node: str, now_us: int) -> bool:
        """Heard lately."""
        view = self.nodes.get(node)
        return view is not None and view.heard_us > 0 and now_us - view.heard_us <= SILENCE_US_MAX

    def facts(self, now_us: int, asking: str = "") -> list[NodeFacts]:
        """What placement may know of every node that joined; asking: the VM that is to be placed."""
        self.fleet.expire(now_us)
        return [facts for name in self.nodes if (facts := self.fleet.facts(name, now_us, asking)) is not None]

    def reports(self) -> list[Capabilities]:
        """What nodes said of themselves."""
        return [node.reported.capabilities for node in self.nodes.values() if node.reported is not None]

    def can(self, node: str) -> Capabilities | None:
        """What its agent last said of it."""
        view = self.nodes.get(node)
        return view.reported.capabilities if view is not None and view.reported is not None else None


def _owner(recorded: Recorded) -> str:
    """Whose VM it is, to tell lifetimes apart."""
    if not recorded.meta:
        return ""
    meta = decode_meta(recorded.meta)
    return f"{meta.project}/{meta.owner}"
