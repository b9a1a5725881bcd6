"""compute: emptying a node (streams `drain-NODE`): first a look at all its VMs, then their migrations, a few at once."""

from __future__ import annotations

from libs.common.messages import Command, Event, Name, NodeId, Tick, Value


class DrainMove(Value):
    """copy_mib: the disks that go along, as that node has a pool of its own; 0: none."""

    vm: str
    to: str
    copy_mib: int = 0


class DrainUnfit(Value):
    """Why no other node takes it, and what would make one."""

    vm: str
    sentence: str
    remedy: str = ""


class DrainPlan(Value):
    """Where each VM would go if all went in this order, each beside those before it; what fits nowhere; and what is starting or
    stopping, and is waited for."""

    moves: tuple[DrainMove, ...] = ()
    unfit: tuple[DrainUnfit, ...] = ()
    waits: tuple[str, ...] = ()


class AskDrain(Value):
    """`query.compute.drain`: the DrainPlan as of now. vms: only these of that node; none: all."""

    node: str
    vms: tuple[str, ...] = ()


class DrainNode(Command):
    """Cordon it and migrate its VMs away. partial: also when some fit nowhere; they stay. plan: filled in by compute's own view."""

    node: Name
    partial: bool = False
    reason: str = ""
    plan: DrainPlan | None = None


class EndDrain(Command):
    """It takes VMs again: what moves already moves on, nothing else is begun."""

    node: Name


class AdvanceDrain(Tick):
    """here: all VMs that the node has; ready: those of them that run and do not move; moving: those on their way from it. Filled in
    by compute's own view."""

    node: Name
    here: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()


class NodeDrainRequested(Event):
    node: NodeId
    plan: DrainPlan
    partial: bool = False
    reason: str = ""


class NodeMoveWanted(Event):
    """to: as planned; empty: wherever it fits by now."""

    node: NodeId
    vm: str
    attempt: int
    at_us: int
    to: str = ""


class NodeDrained(Event):
    """left: what is there still, after all attempts."""

    node: NodeId
    left: tuple[str, ...] = ()


class NodeDrainEnded(Event):
    node: NodeId
    sentence: str


DrainCommand = DrainNode | EndDrain | AdvanceDrain
DrainEvent = NodeDrainRequested | NodeMoveWanted | NodeDrained | NodeDrainEnded
