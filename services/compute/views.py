"""What compute knows of others when it decides: nodes and their load, images, who was heard lately. Folded from the log, except
for heartbeats, which are telemetry and start anew with the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from libs.common.messages import Recorded, decode_meta
from libs.memory.promise import guaranteed_mib, promise_of
from proto.balance import ApplyBalance, LookAtBalance
from proto.cluster import ClusterFinalized, FinalizeCluster, IncarnationBegan
from proto.compute import (
    DefineVm,
    DeleteVm,
    Filter,
    ImageFacts,
    NodeCordoned,
    NodeJoined,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    NoteMemory,
    Placement,
    RemoveNode,
    ReportNode,
    SetAllotment,
    StartVm,
    VmAllotted,
    VmDefined,
    VmDeleted,
    VmFound,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.io import ImageDeleteRequested, ImageImported
from proto.machine import Allotment, NicKind
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved, Promise
from proto.migration import MigrateVm, VmIncomingGone, VmMigrated, VmMigrationEnded, VmMigrationRequested
from proto.node import Beat
from proto.placement import removed_by
from proto.plan import MakePlan, ReviewPlan
from services.compute.balance import wiring
from services.compute.balance.facts import BalanceViews
from services.compute.fleet import HINT_US_MAX, LOAD_STEPS, SILENCE_US_MAX, Fleet, Hint, NodeView, Share
from services.compute.lifetime_table import Life, LifetimeTable
from services.compute.plan_views import PlanViews
from services.compute.policy import SPREAD, NodeFacts, Weights, Wishes
from services.compute.pressed import Stilled
from services.compute.states import tried

_decode_beat = msgspec.msgpack.Decoder(Beat).decode


class _Derived:
    """Beside the fields of the views, which go into snapshots: what is made of them."""

    __slots__ = ("fleet",)
    fleet: Fleet


@dataclass(slots=True)
class Views(_Derived):
    """Placement facts and image facts. starts: the latest start of each VM that has a node. numbers: of all nodes that ever
    joined, in that order. owners: of each defined VM, project and owner. weights: the placement policy in force. at: the node of
    each VM that runs and is not being stopped; moves: the migrations that are not over."""

    nodes: dict[str, NodeView] = field(default_factory=dict)
    vms: dict[str, VmDefined] = field(default_factory=dict)
    starts: dict[str, VmStartRequested] = field(default_factory=dict)
    at: dict[str, str] = field(default_factory=dict)
    moves: dict[str, VmMigrationRequested] = field(default_factory=dict)
    images: dict[str, ImageImported] = field(default_factory=dict)
    hints: dict[str, Hint] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    lifetimes: LifetimeTable = field(default_factory=LifetimeTable)
    lives: dict[str, Life] = field(default_factory=dict)
    weights: Weights = SPREAD
    balance: BalanceViews = field(default_factory=BalanceViews)
    plans: PlanViews = field(default_factory=PlanViews)
    stilled: Stilled = field(default_factory=Stilled)
    incarnation: int = 1
    finalized: int = 1

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.nodes, self.hints, self.numbers)  # type: ignore[misc]  # mypy sees the own slots only
        if self.weights.lifetime:
            self.fleet.lives({vm: (self.starts[vm].node, life) for vm, life in self.lives.items()}, 0)

    def apply(self, recorded: Recorded, event: Any) -> None:
        self.balance.apply(event)
        self.plans.apply(event)
        self.stilled.apply(recorded, event)
        match event:
            case NodeJoined() | NodeRemoved() | NodeReported() | NodeCordoned() | NodeUncordoned():
                self._apply_node(event)
            case CapacitySet() | MemoryReserved() | MemoryReleased():
                self._apply_memory(event)
            case VmDefined():
                self.vms[event.vm] = event
                self.owners[event.vm] = _owner(recorded)
            case VmAllotted() if event.vm in self.vms:
                self._apply_allotted(event, self.vms[event.vm])
            case VmDeleted():
                self.vms.pop(event.vm, None)
                self.owners.pop(event.vm, None)
            case VmStartRequested():
                self._apply_start(recorded, event)
            case VmMigrationRequested() | VmMigrated() | VmIncomingGone() | VmMigrationEnded():
                self._apply_migration(recorded, event)
            case VmStopRequested():
                self.at.pop(event.vm, None)
            case VmStarted():
                self.at[event.vm] = event.node
                if life := self.lives.get(event.vm):
                    life.since_us, life.ran = recorded.at_us, True
            case VmFound():
                self.at[event.vm] = event.node
                self.fleet.hinted(event.vm, None)
                self._take(event.node, event.vm, event.vcpus)
            case VmStartFailed() | VmStopped():
                self._apply_end(recorded, event)
            case IncarnationBegan():
                self.incarnation = event.incarnation
            case ClusterFinalized():
                self.finalized = event.protocol
            case ImageImported():
                self.images[event.image] = event
            case ImageDeleteRequested():
                self.images.pop(event.image, None)

    def _apply_node(self, event: NodeJoined | NodeRemoved | NodeReported | NodeCordoned | NodeUncordoned) -> None:
        if isinstance(event, NodeRemoved):
            self.nodes.pop(event.node, None)
            self.fleet.changed(event.node)
            return
        spoken = event.incarnation if isinstance(event, NodeJoined) else 1
        node = self.nodes.setdefault(event.node, NodeView(spoken=spoken))
        self.numbers.setdefault(event.node, len(self.numbers))
        match event:
            case NodeReported():
                node.reported, node.spoken = event, event.incarnation
            case NodeCordoned():
                node.cordoned = True
            case NodeUncordoned():
                node.cordoned = False
        self.fleet.changed(event.node)

    def _apply_memory(self, event: CapacitySet | MemoryReserved | MemoryReleased) -> None:
        if isinstance(event, MemoryReserved):
            self.fleet.hinted(event.vm, None)
        node = self.nodes.get(event.node)
        if node is None:
            return
        match event:
            case CapacitySet():
                node.capacity_mib, node.ratios = event.capacity_mib - event.share_mib, event.policy
                node.failover_mib = event.share_mib
                node.reserved_mib, node.charged_mib = event.promised_mib, event.charged_mib
            case MemoryReserved() | MemoryReleased():
                node.reserved_mib, node.charged_mib = event.reserved_mib, event.charged_mib
        self.fleet.changed(event.node)

    def _apply_start(self, recorded: Recorded, event: VmStartRequested) -> None:
        self.starts[event.vm] = event
        promise = promise_of(event.memory_mib, event.priority, event.allotment)
        until_us = recorded.at_us + HINT_US_MAX
        self.fleet.hinted(event.vm, Hint(event.node, _share(event.vcpus, event.allotment), promise, until_us))
        self._take(event.node, event.vm, event.vcpus, event.allotment)
        if before := self.lives.pop(event.vm, None):
            self.lifetimes.ended(before, recorded.at_us)
        owner = self.owners.get(event.vm, "")
        life = self.lives[event.vm] = self.lifetimes.kind(owner, event.vcpus, recorded.at_us)
        self.lifetimes.began(owner, life, recorded.at_us)
        self.fleet.begun(event.vm, event.node, life, recorded.at_us)

    def _apply_allotted(self, event: VmAllotted, defined: VmDefined) -> None:
        self.vms[event.vm] = replace(defined, priority=event.priority, allotment=event.allotment)
        for node in [name for name, view in self.nodes.items() if event.vm in view.vms]:
            self._take(node, event.vm, defined.shape.vcpus, event.allotment)

    def _apply_end(self, recorded: Recorded, event: VmStartFailed | VmStopped) -> None:
        self.starts.pop(event.vm, None)
        self.at.pop(event.vm, None)
        self.moves.pop(event.vm, None)
        self.fleet.hinted(event.vm, None)
        self.fleet.ended(event.vm)
        if life := self.lives.pop(event.vm, None):
            self.lifetimes.ended(life, recorded.at_us)
        if node := self.nodes.get(event.node):
            node.vms.pop(event.vm, None)
            self.fleet.changed(event.node)

    def _apply_migration(
        self, recorded: Recorded, event: VmMigrationRequested | VmMigrated | VmIncomingGone | VmMigrationEnded
    ) -> None:
        """The VM counts on both nodes until one of the two is over."""
        match event:
            case VmMigrationRequested():
                self.moves[event.vm] = event
                promise = promise_of(event.memory_mib, event.priority, event.allotment)
                until_us = recorded.at_us + HINT_US_MAX
                self.fleet.hinted(event.vm, Hint(event.to, _share(event.vcpus, event.allotment), promise, until_us))
                self._take(event.to, event.vm, event.vcpus, event.allotment)
            case VmMigrated():
                self._left(event.source, event.vm)
                if event.vm in self.at:
                    self.at[event.vm] = event.node
                if start := self.starts.get(event.vm):
                    self.starts[event.vm] = replace(start, node=event.node, generation=event.generation)
                if life := self.lives.get(event.vm):
                    self.fleet.ended(event.vm)
                    self.fleet.begun(event.vm, event.node, life, recorded.at_us)
            case VmIncomingGone():
                self.moves.pop(event.vm, None)
                self.fleet.hinted(event.vm, None)
                self._left(event.node, event.vm)
            case VmMigrationEnded():
                self.moves.pop(event.vm, None)

    def _left(self, node: str, vm: str) -> None:
        if view := self.nodes.get(node):
            view.vms.pop(vm, None)
            self.fleet.changed(node)

    def _take(self, node: str, vm: str, vcpus: int, allotment: Allotment | None = None) -> None:
        """The VM counts on that node; by its definition where the event does not say what it was allotted."""
        defined = self.vms.get(vm)
        allotment = allotment or (defined.allotment if defined else Allotment())
        if view := self.nodes.get(node):
            view.vms[vm] = _share(vcpus, allotment)
            self.fleet.changed(node)

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
        """What placement may know of every node that said hello at least once; asking: the VM that is to be placed."""
        self.fleet.expire(now_us)
        return [facts for name in self.nodes if (facts := self.fleet.facts(name, now_us, asking)) is not None]

    def expect(self, vm: str, choice: Placement | None, now_us: int) -> None:
        """This choice is about to be decided. A VM that has a node already gets no other by it."""
        wanted = self.vms.get(vm)
        if wanted and choice and choice.candidates and vm not in self.starts:
            share = _share(wanted.shape.vcpus, wanted.allotment)
            self.fleet.hinted(vm, Hint(choice.candidates[0].node, share, promise_to(wanted), now_us + HINT_US_MAX))

    def wish(self, vm: VmDefined, asked: str, now_us: int) -> Wishes:
        """What the VM needs of a node, and how long it may last there."""
        allotment = vm.allotment
        life = self.lifetimes.kind(self.owners.get(vm.vm, ""), vm.shape.vcpus, now_us)
        return Wishes(
            vcpus=vm.shape.vcpus,
            memory_mib=vm.shape.memory_mib,
            guaranteed_mib=guaranteed_mib(promise_to(vm)),
            priority=vm.priority,
            pools=tuple(sorted({d.pool for d in vm.disks})),
            bridges=tuple(sorted({n.bridge for n in vm.nics if n.kind is NicKind.BRIDGE})),
            node=asked,
            cpu_reserved_pct=allotment.cpu_reserved_pct,
            together=allotment.together,
            apart=allotment.apart,
            lasts=self.fleet.lasts(life.kind),
        )

    def choose(self, vm: str, now_us: int, asked: str = "", tried: tuple[str, ...] = ()) -> Placement | None:
        """A placement for a VM, None where it is not defined."""
        wanted = self.vms.get(vm)
        if wanted is None:
            return None
        self.fleet.renew(self.lifetimes, now_us)
        return self.fleet.place(self.wish(wanted, asked, now_us), tried, self.weights, now_us, vm)

    def known(self, command: DefineVm) -> ImageFacts:
        """Of the images a definition names: those that are there, and how the first disk's image boots."""
        names = sorted({d.image for d in command.disks if d.image})
        first = self.images.get(command.disks[0].image) if command.disks else None
        boot = first.boot if first else None
        return ImageFacts(
            missing=tuple(n for n in names if n not in self.images),
            sizes_mib={n: self.images[n].info.size_mib for n in names if n in self.images},
            boot=boot,
            boot_image=first.image if first and boot else "",
        )


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only compute's own views may say, whoever sent the command."""
    match command:
        case DefineVm():
            return replace(command, known=views.known(command))
        case LookAtBalance() | ApplyBalance():
            return wiring.enrich(command, views.balance, lambda node: views.online(node, now_us), now_us)
        case StartVm():
            choice = views.choose(command.vm, now_us, command.node)
            views.expect(command.vm, choice, now_us)
            return replace(command, choice=choice, unheard=views.unheard(command.incarnation))
        case MigrateVm():
            here = views.at.get(command.vm)
            choice = views.choose(command.vm, now_us, command.node, (here,)) if here else None
            return replace(command, choice=choice, unheard=views.unheard(command.incarnation))
        case DeleteVm():
            unheard = views.unheard(command.incarnation)
            return command if command.unheard == unheard else replace(command, unheard=unheard)
        case NoteMemory(granted=False):
            return replace(command, choice=_next_choice(command, views, now_us))
        case ReportNode() if command.finalized != views.finalized:
            return replace(command, finalized=views.finalized)
        case FinalizeCluster():
            reports = {name: node.reported for name, node in views.nodes.items()}
            return replace(command, nodes={n: r.capabilities.protocol for n, r in reports.items() if r is not None})
        case MakePlan() | ReviewPlan() | SetAllotment():
            return views.plans.filled(command)
        case RemoveNode():
            node = views.nodes.get(command.node)
            return replace(command, vms=tuple(sorted(node.vms)) if node else ())
        case _:
            return command


def _next_choice(command: NoteMemory, views: Views, now_us: int) -> Placement | None:
    """The ledger's denial says that the facts were old: choose afresh, without the nodes already tried. None, and with it the
    recorded candidates, where the start asked for one node only or is not the latest."""
    start = views.starts.get(command.vm)
    if start is None or start.generation != command.generation:
        return None
    if removed_by(start.placement, Filter.NOT_ASKED):
        return None
    return views.choose(command.vm, now_us, tried=(*tried(start.placement), start.node))


def hear(subject: str, data: bytes, now_us: int, views: Views) -> None:
    """`tel.NODE.beat`, `tel.NODE.cpu`. Only a node that joined, and only in its own name."""
    if subject.endswith(".cpu"):
        views.plans.hear(subject, data, now_us)
        views.balance.hear(subject, data, now_us)
        return
    beat = _decode_beat(data)
    node = views.nodes.get(beat.node)
    if node is not None and subject == f"tel.{beat.node}.beat":
        node.heard_us = now_us
        views.fleet.heard(beat.node, now_us)
        load = round(beat.load * LOAD_STEPS) / LOAD_STEPS
        if load != node.load:
            node.load = load
            views.fleet.changed(beat.node)


def promise_to(wanted: VmDefined) -> Promise:
    """What a ledger would promise to it."""
    return promise_of(wanted.shape.memory_mib, wanted.priority, wanted.allotment)


def share_of(wanted: VmDefined) -> Share:
    """What it would take of a node."""
    return _share(wanted.shape.vcpus, wanted.allotment)


def _share(vcpus: int, allotment: Allotment) -> Share:
    return Share(vcpus, allotment.cpu_reserved_pct, allotment.together, allotment.apart)


def _owner(recorded: Recorded) -> str:
    """Whose VM it is, to tell lifetimes apart."""
    if not recorded.meta:
        return ""
    meta = decode_meta(recorded.meta)
    return f"{meta.project}/{meta.owner}"
