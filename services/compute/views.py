"""What compute knows of others when it decides: nodes and their load, images, who was heard lately. Folded from the log, except
for heartbeats, which are telemetry and start anew with the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded
from libs.memory.promise import charged_mib, guaranteed_mib, promise_of, ratio_pct
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
    StartVm,
    VmDefined,
    VmDeleted,
    VmFound,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
)
from proto.io import ImageDeleteRequested, ImageImported
from proto.ladder import MemoryPolicy
from proto.machine import NicKind, Priority
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved, Promise
from proto.node import Beat
from services.compute.policy import NodeFacts, Wishes, place
from services.compute.states import tried

SILENCE_US_MAX = 5_000_000
"""A node not heard for longer is offline for placement: five missed heartbeats, as long as a node's lease."""

HINT_US_MAX = 5_000_000
"""How long a choice counts that the log does not yet show in full: starts that are asked for in one burst then spread over the
nodes instead of all meeting on the one that was emptiest. Longer than any log takes to come back to its own writer."""

_decode_beat = msgspec.msgpack.Decoder(Beat).decode


@dataclass(slots=True)
class NodeView:
    """A node in the views. VMs are counted from the choice of the node until the end of the process was seen."""

    reported: NodeReported | None = None
    cordoned: bool = False
    capacity_mib: int = 0
    """what may be promised to starts: the ledger's capacity without the failover share"""
    reserved_mib: int = 0
    charged_mib: int = 0
    ratios: MemoryPolicy = field(default_factory=MemoryPolicy)
    heard_us: int = 0
    spoken: int = 1
    """the latest incarnation of the log in which it told all that it runs"""
    vms: dict[str, int] = field(default_factory=dict)
    """VM -> vCPUs"""


@dataclass(frozen=True, slots=True)
class Hint:
    """A VM on its way to a node: chosen, its memory not yet seen reserved."""

    node: str
    vcpus: int
    promise: Promise
    until_us: int


@dataclass(slots=True)
class Views:
    """Placement facts and image facts. starts: the latest start of each VM that has a node."""

    nodes: dict[str, NodeView] = field(default_factory=dict)
    vms: dict[str, VmDefined] = field(default_factory=dict)
    starts: dict[str, VmStartRequested] = field(default_factory=dict)
    images: dict[str, ImageImported] = field(default_factory=dict)
    hints: dict[str, Hint] = field(default_factory=dict)
    incarnation: int = 1
    finalized: int = 1

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case NodeJoined():
                self.nodes.setdefault(event.node, NodeView(spoken=event.incarnation))
            case NodeRemoved():
                self.nodes.pop(event.node, None)
            case NodeReported() | NodeCordoned() | NodeUncordoned():
                self._apply_node(self.nodes.setdefault(event.node, NodeView()), event)
            case CapacitySet() | MemoryReserved() | MemoryReleased():
                self._apply_memory(self.nodes.get(event.node), event)
                if isinstance(event, MemoryReserved):
                    self.hints.pop(event.vm, None)
            case VmDefined():
                self.vms[event.vm] = event
            case VmDeleted():
                self.vms.pop(event.vm, None)
            case VmStartRequested():
                self.starts[event.vm] = event
                promise = promise_of(event.memory_mib, event.priority, event.allotment)
                self.hints[event.vm] = Hint(event.node, event.vcpus, promise, recorded.at_us + HINT_US_MAX)
                if node := self.nodes.get(event.node):
                    node.vms[event.vm] = event.vcpus
            case VmFound():
                self.hints.pop(event.vm, None)
                if node := self.nodes.get(event.node):
                    node.vms[event.vm] = event.vcpus
            case IncarnationBegan():
                self.incarnation = event.incarnation
            case ClusterFinalized():
                self.finalized = event.protocol
            case VmStartFailed() | VmStopped():
                self.starts.pop(event.vm, None)
                self.hints.pop(event.vm, None)
                if node := self.nodes.get(event.node):
                    node.vms.pop(event.vm, None)
            case ImageImported():
                self.images[event.image] = event
            case ImageDeleteRequested():
                self.images.pop(event.image, None)

    @staticmethod
    def _apply_node(node: NodeView, event: NodeReported | NodeCordoned | NodeUncordoned) -> None:
        match event:
            case NodeReported():
                node.reported, node.spoken = event, event.incarnation
            case NodeCordoned():
                node.cordoned = True
            case NodeUncordoned():
                node.cordoned = False

    @staticmethod
    def _apply_memory(node: NodeView | None, event: CapacitySet | MemoryReserved | MemoryReleased) -> None:
        if node is None:
            return
        match event:
            case CapacitySet():
                node.capacity_mib, node.ratios = event.capacity_mib - event.share_mib, event.policy
                node.reserved_mib, node.charged_mib = event.promised_mib, event.charged_mib
            case MemoryReserved() | MemoryReleased():
                node.reserved_mib, node.charged_mib = event.reserved_mib, event.charged_mib

    def unheard(self, incarnation: int) -> tuple[str, ...]:
        """Nodes that have not told what they run since the log began this incarnation, by name. Not before the views have come to
        that beginning is anything known of them: until then it is all, and at least one that has no name."""
        if self.incarnation < incarnation:
            return tuple(sorted(self.nodes)) or ("any node",)
        return tuple(sorted(name for name, node in self.nodes.items() if node.spoken < incarnation))

    def online(self, node: str, now_us: int) -> bool:
        view = self.nodes.get(node)
        return view is not None and view.heard_us > 0 and now_us - view.heard_us <= SILENCE_US_MAX

    def facts(self, now_us: int, asking: str = "") -> list[NodeFacts]:
        """What placement may know, of every node that said hello at least once. asking: the VM that is to be placed; what was
        expected of it before (a decision that has to be made again) does not stand in its own way."""
        self.hints = {vm: hint for vm, hint in self.hints.items() if hint.until_us > now_us}
        priority = self.vms[asking].priority if asking in self.vms else Priority.NORMAL
        coming: dict[str, dict[str, Hint]] = {}
        for vm, hint in self.hints.items():
            if vm == asking:
                continue
            coming.setdefault(hint.node, {})[vm] = hint
        return [
            self._facts(name, node, node.reported, coming.get(name, {}), priority, now_us)
            for name, node in self.nodes.items()
            if node.reported
        ]

    def _facts(
        self, name: str, node: NodeView, reported: NodeReported, coming: dict[str, Hint], priority: Priority, now_us: int
    ) -> NodeFacts:
        can = reported.capabilities
        return NodeFacts(
            node=NodeId(name),
            online=self.online(name, now_us),
            cordoned=node.cordoned,
            pcpus=can.pcpus / max(1, can.share),
            vcpus_promised=sum((node.vms | {vm: hint.vcpus for vm, hint in coming.items()}).values()),
            memory_capacity_mib=node.capacity_mib,
            memory_reserved_mib=node.reserved_mib + sum(guaranteed_mib(hint.promise) for hint in coming.values()),
            memory_charged_mib=node.charged_mib + charged_mib((h.promise for h in coming.values()), node.ratios),
            ratio_pct=ratio_pct(node.ratios, priority),
            pools=can.pools,
            bridges=can.bridges,
        )

    def expect(self, vm: str, choice: Placement | None, now_us: int) -> None:
        """This choice is about to be decided. A VM that has a node already gets no other by it."""
        wanted = self.vms.get(vm)
        if wanted and choice and choice.candidates and vm not in self.starts:
            node = choice.candidates[0].node
            self.hints[vm] = Hint(node, wanted.shape.vcpus, _promise(wanted), now_us + HINT_US_MAX)

    def choose(self, vm: str, now_us: int, asked: str = "", tried: tuple[str, ...] = ()) -> Placement | None:
        """A placement for a VM, None where it is not defined."""
        wanted = self.vms.get(vm)
        if wanted is None:
            return None
        wish = Wishes(
            vcpus=wanted.shape.vcpus,
            memory_mib=wanted.shape.memory_mib,
            guaranteed_mib=guaranteed_mib(_promise(wanted)),
            pools=tuple(sorted({d.pool for d in wanted.disks})),
            bridges=tuple(sorted({n.bridge for n in wanted.nics if n.kind is NicKind.BRIDGE})),
            node=asked,
        )
        return place(wish, self.facts(now_us, asking=vm), tried)

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


def _promise(wanted: VmDefined) -> Promise:
    return promise_of(wanted.shape.memory_mib, wanted.priority, wanted.allotment)


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only compute's own views may say, whoever sent the command."""
    match command:
        case DefineVm():
            return replace(command, known=views.known(command))
        case StartVm():
            choice = views.choose(command.vm, now_us, command.node)
            views.expect(command.vm, choice, now_us)
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
    if any(r.filter is Filter.NOT_ASKED for r in start.placement.rejected):
        return None
    return views.choose(command.vm, now_us, tried=(*tried(start.placement), start.node))


def hear(subject: str, data: bytes, now_us: int, views: Views) -> None:
    """`tel.NODE.beat`. Only a node that joined, and only in its own name."""
    beat = _decode_beat(data)
    node = views.nodes.get(beat.node)
    if node is not None and subject == f"tel.{beat.node}.beat":
        node.heard_us = now_us
