"""memory: what each node's memory is promised to (streams `ledger-NODE`). An admission checks one stream only.

Sizes in MiB. The arithmetic of the limits: libs/memory/promise.py. The reclaim ladder's words: proto/ladder.py.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Name, NodeId, Tick, Value, VmId
from proto.ladder import (
    JudgeMemory,
    LadderClimbed,
    LadderDescended,
    MemoryPolicy,
    VmMoveWanted,
    VmPauseWanted,
)
from proto.machine import Priority

Mib = Annotated[int, msgspec.Meta(ge=0, le=256 * 1024 * 1024)]


class Refusal(StrEnum):
    NO_LEDGER = "NO_LEDGER"
    BAD_AREAS = "BAD_AREAS"
    BAD_POLICY = "BAD_POLICY"
    BREAKS_PROMISES = "BREAKS_PROMISES"


class Area(Value):
    """A part of a node's memory for one module (libs/memory/areas.py) or class of VMs (`vms-critical` …), with the limits of its
    cgroup. 0: no such limit. Version 1 of cgroups has no min: low and high are its soft, max its hard limit."""

    name: str
    min_mib: int = 0
    low_mib: int = 0
    high_mib: int = 0
    max_mib: int = 0


class Promise(Value):
    """One VM's memory: what its guest has, what of that is never taken back, what QEMU takes beside it, its class."""

    nominal_mib: int
    reservation_mib: int
    overhead_mib: int = 0
    priority: Priority = Priority.NORMAL


class Purpose(StrEnum):
    """What memory is asked for. A failover restart may use the failover share, which is there for it; nothing else may.
    `hot-add`, `allotment`: a running VM gets another size, class or reservation. `found`: it runs already (after a restore) and is
    entered whether or not it fits."""

    START = "start"
    FAILOVER = "failover"
    MIGRATION = "migration"
    HOT_ADD = "hot-add"
    ALLOTMENT = "allotment"
    FOUND = "found"


class Limit(StrEnum):
    """What an admission can break. guarantee: reservations and overhead; ratio: nominal memory by its ratio; area: the hard limit
    of the VM's class; forecast: what runs is predicted to need the rest."""

    GUARANTEE = "guarantee"
    RATIO = "ratio"
    AREA = "area"
    FORECAST = "forecast"


class Broken(Value):
    """A limit that would not hold: what is promised already, what was asked for beside it, and how much there may be."""

    limit: Limit
    promised_mib: int
    asked_mib: int
    limit_mib: int


# --- commands ----------------------------------------------------------------------------------------------------------


class NoteHost(Command):
    """A node said what it has; 0: it is no more. The areas follow by policy where they were not set by command.
    swap_memory_mib: what its swap may take of the memory (zram). control_plane: it runs on this host."""

    node: Name
    memory_mib: int
    swap_mib: int = 0
    balloon: bool = False
    memory_areas: str = ""
    swap_memory_mib: int = 0
    control_plane: bool = False


class SetAreas(Command):
    """These areas, and no others, for the node's modules; VM classes may be given limits by areas named `vms-CLASS`. None: back to
    those that follow from the host by policy."""

    node: Name
    areas: Annotated[tuple[Area, ...], msgspec.Meta(max_length=16)] = ()


class SetFailoverShare(Command):
    """So much of this node is kept for VMs of other nodes that fail. Whoever admits what needs a larger share grows it first."""

    node: Name
    share_mib: Mib


class KeepReserve(Command):
    """From a reaction to ReserveSet: so much is to be kept beside, as far as it is free."""

    node: Name
    reserve_mib: Mib


class SetMemoryPolicy(Command):
    """drain: where what is promised does not fit it, VMs are moved away first, and it holds once it does. Else that is refused."""

    node: Name
    policy: MemoryPolicy
    drain: bool = False


class AdvancePolicy(Tick):
    """Look whether a policy that is waited for can hold by now, and who is to go next."""

    node: Name


class ReserveMemory(Command):
    """forecast_mib: what the VMs of this node, this one left out, are predicted to need; filled in by memory's own view, -1: not
    known."""

    node: Name
    vm: Name
    generation: int
    promise: Promise
    purpose: Purpose = Purpose.START
    forecast_mib: int = -1


class ResizeMemory(Command):
    """A running VM gets another promise under the same generation: memory is added or taken for good, or it is worth more or less.
    Denied, the one it has stands."""

    node: Name
    vm: Name
    generation: int
    promise: Promise
    purpose: Purpose = Purpose.HOT_ADD
    forecast_mib: int = -1


class ReleaseMemory(Command):
    """Give back what this generation, or an older one, of the VM holds here."""

    node: Name
    vm: Name
    generation: int


class ReportMemory(Fact):
    """What of the node's memory order could not be applied, one sentence for each part; none: all of it was."""

    order_version: int
    order_incarnation: int = 1
    faults: tuple[str, ...] = ()


# --- events ------------------------------------------------------------------------------------------------------------


class CapacityCause(StrEnum):
    """Why what may be promised changed. host: the node's own report; reserve: what high availability keeps."""

    HOST = "host"
    AREAS = "areas"
    SHARE = "share"
    RESERVE = "reserve"
    POLICY = "policy"


class CapacitySet(Event):
    """What may be promised of this node from now on. capacity_mib: physical less areas; all but failover restarts are held to
    what is left of it without share_mib. areas_set: by command, not by policy. promised_mib, charged_mib: what was promised then.
    share_mib is the larger of asked_mib, which a person asked to keep, and reserve_mib, which high availability keeps."""

    node: NodeId
    capacity_mib: int
    cause: CapacityCause = CapacityCause.HOST
    physical_mib: int = 0
    swap_mib: int = 0
    share_mib: int = 0
    areas: tuple[Area, ...] = ()
    areas_set: bool = False
    policy: MemoryPolicy = MemoryPolicy()
    balloon: bool = False
    memory_areas: str = ""
    control_plane: bool = False
    promised_mib: int = 0
    charged_mib: int = 0
    asked_mib: int = 0
    reserve_mib: int = 0

    @property
    def asked_for_mib(self) -> int:
        """Before high availability kept anything, all of it was."""
        return self.asked_mib if self.asked_mib or self.reserve_mib else self.share_mib


class CapacityExceeded(Event):
    """The host lost memory, and what was promised is more than what is left: nothing is taken from anyone, nothing new is promised
    until `short_mib` are back. would_go: the VMs whose going would make the rest fit; none are critical; enough: whether it
    would."""

    node: NodeId
    before_mib: int
    capacity_mib: int
    promised_mib: int
    charged_mib: int
    short_mib: int
    would_go: tuple[VmId, ...] = ()
    enough: bool = True


class MemoryPolicyWanted(Event):
    """This policy is to hold once these VMs, or others, have gone; until then the one before does, and nothing new is promised that
    either forbids."""

    node: NodeId
    policy: MemoryPolicy
    vms: tuple[VmId, ...] = ()


class MemoryPolicyDropped(Event):
    """Who would have to go could not: the policy stays what it is."""

    node: NodeId
    sentence: str


class MemoryReserved(Event):
    """memory_mib: the most the VM takes of the host. reserved_mib, charged_mib: the sums of both limits with it (reservations and
    overhead; nominal memory by its ratio); capacity_mib: what they were held to."""

    node: NodeId
    vm: VmId
    generation: int
    memory_mib: int
    reserved_mib: int
    capacity_mib: int
    charged_mib: int = 0
    promise: Promise = Promise(nominal_mib=0, reservation_mib=0)
    purpose: Purpose = Purpose.START


class MemoryDenied(Event):
    """The ledger does not hold it: nothing was reserved. broke: every limit that would not hold."""

    node: NodeId
    vm: VmId
    generation: int
    memory_mib: int
    reserved_mib: int
    capacity_mib: int
    broke: tuple[Broken, ...] = ()
    sentence: str = ""
    purpose: Purpose = Purpose.START


class MemoryReleased(Event):
    """Version 2: `released_mib` was `memory_mib`, which elsewhere is what a guest has; it is all that was
    promised, QEMU's own included.

    reserved_mib, charged_mib: the sums without it."""

    VERSION = 2
    SINCE = 2
    node: NodeId
    vm: VmId
    generation: int
    released_mib: int
    reserved_mib: int = 0
    charged_mib: int = 0


class MemoryOrderReported(Event):
    """The node could not apply all of a memory order (faults), or could again (none)."""

    node: NodeId
    order_version: int
    faults: tuple[str, ...] = ()


LedgerCommand = (
    NoteHost
    | SetAreas
    | SetFailoverShare
    | KeepReserve
    | SetMemoryPolicy
    | AdvancePolicy
    | ReserveMemory
    | ResizeMemory
    | ReleaseMemory
    | ReportMemory
    | JudgeMemory
)
LedgerEvent = (
    CapacitySet
    | CapacityExceeded
    | MemoryPolicyWanted
    | MemoryPolicyDropped
    | MemoryReserved
    | MemoryDenied
    | MemoryReleased
    | MemoryOrderReported
    | LadderClimbed
    | LadderDescended
    | VmMoveWanted
    | VmPauseWanted
)
