"""One node of the cluster (stream `node-NAME`). Pure.

Outside ──join──▶ Joined ──report──▶ Member ⟲ report (when something changed), cordon, uncordon
   ▲                 │                  │
   └─────────────────┴──── remove ──────┤
   └── ReportLeft ── leaving ◀── remove, while its agent is heard
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId, Value
from libs.common.protocol import PROTOCOL, PROTOCOL_MIN, Range, compatible
from proto.compute import (
    Capabilities,
    CordonNode,
    GreetNode,
    JoinNode,
    NodeCommand,
    NodeCordoned,
    NodeEvent,
    NodeGreetingRequested,
    NodeHealthChanged,
    NodeJoined,
    NodeLeaveRefused,
    NodeLeaveRequested,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    Refusal,
    RemoveNode,
    ReportLeft,
    ReportNode,
    UncordonNode,
)

REMOVED = "it is being removed"
NAMES_MAX = 5
"""VMs named in one sentence."""


class State(Value, tag=True):
    pass


class Outside(State):
    """Never joined, or removed."""


class Inside(State, kw_only=True):
    """cordoned: takes no new VMs. spoken: the latest incarnation of the log in which it told all that it runs (or joined, and ran
    nothing); asked: the one in which it was last greeted, so as to tell."""

    key: str
    cordoned: bool = False
    reason: str = ""
    spoken: int = 1
    asked: int = 1
    health: tuple[int, str] = (100, "")
    """percent, and why it is not 100, as last told"""
    leaving: bool = False
    """its agent was asked to take away what it made"""

    @property
    def greeted(self) -> bool:
        """Nothing is asked of it that it did not answer."""
        return self.spoken >= self.asked


class Joined(Inside, kw_only=True):
    """Its key is known; its agent has not said hello."""


class Member(Inside, kw_only=True):
    capabilities: Capabilities
    boot_id: str
    address: str = ""


Node = Outside | Joined | Member


def decide(command: NodeCommand, node: Node) -> Sequence[NodeEvent]:
    id = NodeId(command.node)
    match command, node:
        case JoinNode(), _:
            return _join(command, node)
        case GreetNode(), Outside():
            return ()
        case _, Outside():
            raise Refused(Refusal.NODE_UNKNOWN, f"{id} is not a node of this cluster", "join it with a one-time token")
        case ReportNode(), _:
            return _report(command, node)
        case GreetNode(), _:
            told = command.incarnation <= max(node.spoken, node.asked)
            return () if told else [NodeGreetingRequested(node=id, incarnation=command.incarnation)]
        case CordonNode(), _:
            same = node.cordoned and node.reason == command.reason
            return () if same else [NodeCordoned(node=id, reason=command.reason)]
        case UncordonNode(), _:
            return [NodeUncordoned(node=id)] if node.cordoned else ()
        case RemoveNode(), _ if command.vms:
            named = ", ".join(command.vms[:NAMES_MAX])
            more = f" and {len(command.vms) - NAMES_MAX} more" if len(command.vms) > NAMES_MAX else ""
            raise Refused(Refusal.NODE_NOT_EMPTY, f"{id} has {named}{more}", "cordon it and stop its VMs first")
        case RemoveNode(), Member() if command.online and not command.at_once:
            return () if node.leaving else _ask_to_leave(id, node)
        case RemoveNode(), _:
            return [NodeRemoved(node=id)]
        case ReportLeft(), _ if not node.leaving:
            return ()
        case ReportLeft(), _ if command.refused:
            return [NodeLeaveRefused(node=id, sentence=command.refused)]
        case ReportLeft(), _:
            return [NodeRemoved(node=id, left=command.left)]


def _ask_to_leave(id: NodeId, node: Member) -> Sequence[NodeEvent]:
    """No VM is to come there meanwhile."""
    cordon = [] if node.cordoned else [NodeCordoned(node=id, reason=REMOVED)]
    return [*cordon, NodeLeaveRequested(node=id)]


def _join(command: JoinNode, node: Node) -> Sequence[NodeEvent]:
    if isinstance(node, Outside):
        return [NodeJoined(node=NodeId(command.node), key=command.key, incarnation=command.incarnation)]
    if command.key == node.key:
        return ()
    raise Refused(
        Refusal.NODE_KNOWN,
        f"{command.node} joined with another key",
        "remove that node first, or join under another name",
    )


def _report(fact: ReportNode, node: Joined | Member) -> Sequence[NodeEvent]:
    _check_protocol(fact)
    spoken = fact.incarnation if fact.greeting == fact.incarnation else node.spoken
    seen = (fact.capabilities, fact.boot_id, fact.address, spoken)
    found = _health(fact, node)
    if isinstance(node, Member) and seen == (node.capabilities, node.boot_id, node.address, node.spoken):
        return found
    return [
        NodeReported(
            node=fact.node,
            capabilities=fact.capabilities,
            boot_id=fact.boot_id,
            address=fact.address,
            incarnation=spoken,
        ),
        *found,
    ]


def _health(fact: ReportNode, node: Joined | Member) -> Sequence[NodeHealthChanged]:
    pct, reason = fact.health_pct, fact.health_reason if fact.health_pct < 100 else ""
    return [] if (pct, reason) == node.health else [NodeHealthChanged(node=fact.node, health_pct=pct, reason=reason)]


def _check_protocol(fact: ReportNode) -> None:
    can = fact.capabilities
    wanted = Range(max(PROTOCOL_MIN, fact.finalized), PROTOCOL)
    if compatible(Range(can.protocol_min, can.protocol), wanted):
        return
    raise Refused(
        Refusal.PROTOCOL,
        f"{fact.node} speaks protocol {Range(can.protocol_min, can.protocol)}, this cluster {wanted}",
        "upgrade the node" if can.protocol < wanted.oldest else "upgrade the control plane first",
    )


def evolve(node: Node, event: NodeEvent) -> Node:
    match event:
        case NodeJoined():
            return Joined(key=event.key, spoken=event.incarnation)
        case NodeRemoved():
            return Outside()
        case _ if isinstance(node, Outside):
            return node
        case NodeReported():
            return Member(
                key=node.key,
                capabilities=event.capabilities,
                boot_id=event.boot_id,
                address=event.address,
                cordoned=node.cordoned,
                reason=node.reason,
                spoken=event.incarnation,
                asked=node.asked,
                health=node.health,
                leaving=node.leaving,
            )
        case NodeHealthChanged():
            return replace(node, health=(event.health_pct, event.reason))
        case NodeGreetingRequested():
            return replace(node, asked=event.incarnation)
        case NodeLeaveRequested():
            return replace(node, leaving=True)
        case NodeLeaveRefused():
            return replace(node, leaving=False)
        case NodeCordoned():
            return replace(node, cordoned=True, reason=event.reason)
        case NodeUncordoned():
            return replace(node, cordoned=False, reason="")
        case _:
            assert_never(event)


NODE: Decider[NodeCommand, Node, NodeEvent] = Decider(
    kind="node",
    commands=get_args(NodeCommand),
    events=get_args(NodeEvent),
    state=Node,
    key=lambda command: command.node,
    initial=Outside(),
    decide=decide,
    evolve=evolve,
)
