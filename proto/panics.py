"""compute: a guest died inside its VM, whose process stands still since (streams `vm-NAME`)."""

from __future__ import annotations

from libs.common.messages import Command, Event, Name, NodeId, VmId
from proto.seen import GoneCause
from proto.vitals import Screen


class VmPanicked(Event):
    """The kernel of its guest gave up; sentence: what it said of that (a blue screen: its stop code); screen: what it showed. Its
    process stands still: what it was doing can be looked at until it is reset, or ended upon a verdict (vitals.py)."""

    vm: VmId
    node: NodeId
    generation: int
    sentence: str
    screen: Screen | None = None


class EndVm(Command):
    """Its guest was found dead: power off now. cause: as what (panic, hang). Another generation, or one that does not run, is left
    alone."""

    vm: Name
    generation: int
    cause: GoneCause


class VmPanicOver(Event):
    """It runs again, after a reset."""

    vm: VmId
    node: NodeId
    generation: int


PanicEvent = VmPanicked | VmPanicOver
