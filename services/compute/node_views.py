"""What the views make of events about nodes: what each offers, what is held there, whether it may be used. The nodes stay fields
of the views, which tell them to placement (`Views.fleet`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.common.host import hearing
from libs.common.messages import Recorded
from proto.compute import (
    NodeCordoned,
    NodeHealthChanged,
    NodeJoined,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
)
from proto.lease import HaSet, NodeLost, NodeOffProven, NodePathsNoted, NodeReturned
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved
from proto.plan import PlanMade
from services.compute.cells import Planned
from services.compute.fleet import NodeView

if TYPE_CHECKING:
    from services.compute.views import Views


def roomy(views: Views, node: str) -> None:
    """Its pools, or their rules, may be others than they were."""
    view, rooms = views.nodes.get(node), views.rooms.of(node)
    if view is not None and view.pool_rooms != rooms:
        view.pool_rooms = rooms
        views.fleet.changed(node)


def _lose(
    views: Views, recorded: Recorded, event: NodeReported | NodeRemoved | NodeLost | NodeOffProven | NodeReturned | HaSet
) -> None:
    """A node is lost, or back."""
    name = views.lost.apply(event)
    if view := views.nodes.get(name):
        view.lost = name in views.lost.nodes
        views.fleet.changed(name)


def _node(
    views: Views,
    recorded: Recorded,
    event: NodeJoined | NodeRemoved | NodeReported | NodeHealthChanged | NodeCordoned | NodeUncordoned,
) -> None:
    if isinstance(event, NodeReported | NodeRemoved):
        _lose(views, recorded, event)
    if isinstance(event, NodeRemoved):
        views.nodes.pop(event.node, None)
        views.rooms.told.pop(event.node, None)
        views.fleet.changed(event.node)
        return
    spoken = event.incarnation if isinstance(event, NodeJoined) else 1
    node = views.nodes.setdefault(event.node, NodeView(spoken=spoken))
    views.numbers.setdefault(event.node, len(views.numbers))
    match event:
        case NodeReported():
            node.reported, node.spoken = event, event.incarnation
        case NodeHealthChanged():
            node.health_pct, node.health_reason = event.health_pct, event.reason
        case NodeCordoned():
            node.cordoned = True
        case NodeUncordoned():
            node.cordoned = False
    views.fleet.changed(event.node)


def _paths(views: Views, recorded: Recorded, event: NodePathsNoted) -> None:
    """Its VMs run on; new ones go elsewhere. (Networks are looked at as nodes report them.)"""
    if (node := views.nodes.get(event.node)) is not None:
        stuck = ", ".join(event.pools)
        mute = "its watchdog does not answer" if event.mute else ""
        node.no_storage = f"it cannot write its lease record in pool {stuck}" if stuck else mute
        views.fleet.changed(event.node)


def _capacity(views: Views, recorded: Recorded, event: CapacitySet) -> None:
    if (node := views.nodes.get(event.node)) is not None:
        node.capacity_mib, node.ratios = event.capacity_mib - event.share_mib, event.policy
        node.failover_mib, node.moves_mib = event.share_mib, event.share_mib - event.asked_for_mib
        node.reserved_mib, node.charged_mib = event.promised_mib, event.charged_mib
        views.fleet.changed(event.node)


def _memory(views: Views, recorded: Recorded, event: MemoryReserved | MemoryReleased) -> None:
    if type(event) is MemoryReserved and event.vm in views.hints:
        views.fleet.hinted(event.vm, None)
    if (node := views.nodes.get(event.node)) is not None:
        node.reserved_mib, node.charged_mib = event.reserved_mib, event.charged_mib
        views.fleet.changed(event.node)


def _plan(views: Views, recorded: Recorded, event: PlanMade) -> None:
    """Where VMs lie among the node's cells."""
    if (view := views.nodes.get(event.node)) is None:
        return
    for vm in event.vms:
        view.planned[vm.vm] = Planned(vm.pcpus, vm.exclusive)
    for gone in event.gone:
        view.planned.pop(gone, None)
    if view.reported is not None and len(view.reported.capabilities.cells) > 1:
        views.fleet.changed(event.node)


HEARS: hearing.Heard = {
    **dict.fromkeys((NodeLost, NodeOffProven, NodeReturned, HaSet), _lose),
    **dict.fromkeys((NodeJoined, NodeRemoved, NodeReported, NodeHealthChanged, NodeCordoned, NodeUncordoned), _node),
    **dict.fromkeys((MemoryReserved, MemoryReleased), _memory),
    NodePathsNoted: _paths,
    CapacitySet: _capacity,
    PlanMade: _plan,
}
"""of the views, beside what they hear of VMs"""
