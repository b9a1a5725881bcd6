"""compute: a guest died inside its VM, whose process stands still since (streams `vm-NAME`)."""

from __future__ import annotations

from libs.common.messages import Event, NodeId, VmId


class VmPanicked(Event):
    """The kernel of its guest gave up; sentence: what it said of that (a blue screen: its stop code). Nothing restarts it: what it
    was doing can still be looked at, and a reset brings it back."""

    vm: VmId
    node: NodeId
    generation: int
    sentence: str


class VmPanicOver(Event):
    """It runs again, after a reset."""

    vm: VmId
    node: NodeId
    generation: int


PanicEvent = VmPanicked | VmPanicOver
