"""Which nodes are lost, as compute knows it from the log: they get no VM until they are back. Pure.

A node that was started anew counts as back once it has said what it has in that boot; one that only was cut off, at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from libs.common.messages import Command
from proto.compute import LoseVm, NodeRemoved, NodeReported, RestartVm, VmStartRequested
from proto.guard import RestartWanted
from proto.lease import HaSet, NodeLost, NodeOffProven, NodeReturned, ProofKind
from proto.machine import Priority
from proto.migration import VmMigrationRequested

if TYPE_CHECKING:
    from services.compute.views import Views


@dataclass(slots=True)
class Lost:
    """boot: in which its agent last reported before; awaited: it is back in this one, and its agent has not reported there."""

    event: NodeLost
    boot: str = ""
    awaited: str = ""


@dataclass(slots=True)
class LostNodes:
    nodes: dict[str, Lost] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    relax_apart: bool = True

    def apply(self, event: Any) -> str:
        """The node that is lost, or back, from now on; "": none."""
        match event:
            case NodeReported():
                lost = self.nodes.get(event.node)
                self.boots[event.node] = event.boot_id
                if lost is not None and lost.awaited == event.boot_id:
                    return self._back(event.node)
            case NodeLost():
                self.nodes[event.node] = Lost(event, self.boots.get(event.node, ""))
                return event.node
            case NodeOffProven() if lost := self.nodes.get(event.node):
                lost.event = replace(lost.event, proof=event.proof)
            case NodeReturned() if lost := self.nodes.get(event.node):
                anew = lost.event.boot_id == lost.boot != event.boot_id
                if not anew or self.boots.get(event.node) == event.boot_id:
                    return self._back(event.node)
                lost.awaited = event.boot_id
            case NodeRemoved():
                self.boots.pop(event.node, None)
                return self._back(event.node)
            case HaSet():
                self.relax_apart = event.settings.relax_apart
        return ""

    def _back(self, node: str) -> str:
        return node if self.nodes.pop(node, None) is not None else ""


def react(event: Any, views: Views) -> Sequence[Command]:
    """VMs of the lost node in the order of their class; what was decided to go there without knowing; what a guard wants."""
    lost = views.lost.nodes
    match event:
        case NodeLost() | NodeOffProven() if node := views.nodes.get(event.node):
            order = {priority: place for place, priority in enumerate(Priority)}
            vms = sorted(node.vms, key=lambda vm: (order[node.vms[vm].priority], vm))
            return [lose(event, vm) for vm in vms]
        case VmStartRequested() if event.node in lost:
            return [passed_over(lost[event.node].event, event.vm)]
        case VmMigrationRequested() if event.to in lost:
            return [passed_over(lost[event.to].event, event.vm)]
        case RestartWanted():
            return [
                RestartVm(
                    vm=event.vm, attempt=event.attempt, node=event.node, not_node=event.not_node, failover=event.failover
                )
            ]
        case _:
            return ()


def lose(event: NodeLost | NodeOffProven, vm: str) -> Command:
    """What NodeLost says of one VM that the node has."""
    proof = event.proof
    by_lease = proof.kind in (ProofKind.LEASE, ProofKind.ACKNOWLEDGED) and not proof.vms
    return LoseVm(
        vm=vm,
        node=event.node,
        epoch=event.epoch,
        everything=proof.everything or vm in proof.vms,
        guarded=by_lease,
        sentence=proof.sentence or f"{event.node} was declared lost ({proof.kind})",
    )


def passed_over(event: NodeLost, vm: str) -> Command:
    """It was decided to go there after the node was lost, and before compute had heard of that: no agent has been told of it."""
    return LoseVm(vm=vm, node=event.node, epoch=event.epoch, sentence=f"{event.node} was declared lost a moment before")
