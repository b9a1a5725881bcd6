"""ha: high availability as a whole (stream `ha-main`): its settings, whether it is armed, who grants. A part of proto.lease."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Tick, Value

MAIN = "main"
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
ReserveNodes = Annotated[int, msgspec.Meta(ge=0, le=64)]
ReservePct = Annotated[int, msgspec.Meta(ge=0, le=90)]
LostMax = Annotated[int, msgspec.Meta(ge=1, le=1000)]
StartsMax = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Isolated(StrEnum):
    """What is done with the VMs of a node that lives and cannot be reached. leave: they run on. evacuate: it is asked through its
    mailbox to end them, and they start elsewhere upon its word."""

    LEAVE = "leave"
    EVACUATE = "evacuate"


class Unlinked(StrEnum):
    """What is done with the VMs of a node whose bridge has lost its way out. alarm: it is told. migrate: the node is drained, as
    far as its VMs fit elsewhere; it stays cordoned until somebody says otherwise."""

    ALARM = "alarm"
    MIGRATE = "migrate"


class Reserve(StrEnum):
    """How admission control keeps room: for the VMs of the `nodes` largest nodes, or a percentage of all memory, or none."""

    NODES = "nodes"
    PERCENT = "percent"
    NONE = "none"


class HaSettings(Value):
    """tolerant: leases of 30 s instead of 5, for networks and storage that hiccup together. isolated_s: how long a node is
    unreachable before its VMs are asked for. lost_max: how many nodes are declared lost within window_s without somebody's word.
    starts_max: restarts at once."""

    tolerant: bool = False
    isolated: Isolated = Isolated.EVACUATE
    isolated_s: Seconds = 3.0
    reserve: Reserve = Reserve.NODES
    reserve_nodes: ReserveNodes = 1
    reserve_pct: ReservePct = 0
    lost_max: LostMax = 2
    window_s: Seconds = 300.0
    starts_max: StartsMax = 16
    relax_apart: bool = True
    unlinked: Unlinked = Unlinked.ALARM


class SetHa(Command):
    """Change what is named; None stays. nodes: how many there are, filled in by ha's own view."""

    tolerant: bool | None = None
    isolated: Isolated | None = None
    isolated_s: Seconds | None = None
    reserve: Reserve | None = None
    reserve_nodes: ReserveNodes | None = None
    reserve_pct: ReservePct | None = None
    lost_max: LostMax | None = None
    window_s: Seconds | None = None
    starts_max: StartsMax | None = None
    relax_apart: bool | None = None
    unlinked: Unlinked | None = None
    nodes: int = 0


class DisarmHa(Command):
    """Nothing is declared lost, fenced or restarted until it is armed again, or until_us has come (0: no end). Leases go on."""

    reason: str
    until_us: int = 0


class ArmHa(Command):
    """Also somebody's word that the nodes which are silent by now are down indeed. at_us: filled in by ha's own view."""

    at_us: int = 0


class RearmHa(Tick):
    """The time of the disarming is over."""


class BeginTerm(Tick):
    """A process has the grantor's lock. holder: who, by a name that no other has, nor itself another time. incarnation: filled in
    by its host."""

    holder: str
    incarnation: int = 1


class HoldHa(Tick):
    """Nothing is declared lost by itself: the observer doubts itself, or too many nodes went at once. Empty: it may again."""

    sentence: str = ""
    remedy: str = ""


class HaSet(Event):
    settings: HaSettings


class HaDisarmed(Event):
    reason: str
    until_us: int = 0


class HaArmed(Event):
    """over: the time of the disarming was over; else it is somebody's word about all nodes that were silent at at_us."""

    over: bool = False
    at_us: int = 0


class TermBegan(Event):
    """Who grants leases from now on. No lease counts as spent before wait_us have passed."""

    term: int
    holder: str
    at_us: int
    wait_us: int = 0


class HaHeld(Event):
    sentence: str
    remedy: str = ""


class HaReleased(Event):
    pass


HaCommand = SetHa | DisarmHa | ArmHa | RearmHa | BeginTerm | HoldHa
HaEvent = HaSet | HaDisarmed | HaArmed | TermBegan | HaHeld | HaReleased
