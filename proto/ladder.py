"""memory: the reclaim ladder of one node: what was seen, and what was decided to take back or to give again.

These are words of the ledger's stream (proto/memory.py). Sizes in MiB; psi in percent of the last ten seconds, -1: not known.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Event, Name, NodeId, Tick, Value, VmId
from proto.machine import Priority

RatioPct = Annotated[int, msgspec.Meta(ge=100, le=400)]


class MemoryPolicy(Value):
    """ratio_pct: nominal memory that may be promised for each 100 MiB there are; class_ratio_pct: the same for one class of VMs,
    by its name (never critical). merge: equal pages of VMs may be merged (KSM); off, since merged pages tell tenants of one
    another. swap: best-effort VMs may be swapped out where the node has swap."""

    ratio_pct: RatioPct = 150
    class_ratio_pct: dict[str, RatioPct] = {}
    merge: bool = False
    swap: bool = True


class Level(StrEnum):
    """How short a node is, by what is available in percent of its minFree: 100 and above, below 100, below 64, 32, 16."""

    AMPLE = "ample"
    CLEAR = "clear"
    SOFT = "soft"
    HARD = "hard"
    LOW = "low"


class Rung(StrEnum):
    """The ladder, in the order in which it is climbed. Below it, always on: guests report free pages and the host has them back."""

    MERGE = "merge"
    BALLOON = "balloon"
    SWAP = "swap"
    MOVE = "move"
    PAUSE = "pause"


class LadderStep(Value):
    """What is done to one VM on one rung. from_mib, to_mib: balloon: what it held (going down the ladder: its target), and its new
    target; swap: how much of it may be swapped out; move, pause: its nominal size and 0, or back. demand_mib: what it was
    predicted to need, used_mib: what it used, reservation_mib: what is never taken from it; -1: not recorded. price: its shares
    per MiB, idle memory taxed; the lowest pays first."""

    rung: Rung
    vm: str
    generation: int
    from_mib: int
    to_mib: int
    demand_mib: int = 0
    price: float = 0.0
    used_mib: int = -1
    reservation_mib: int = -1


class VmSeen(Value):
    """One VM in telemetry. held_mib: what the host gives it now (its balloon), -1: not known. used_mib: what it uses now;
    demand_mib: what it is predicted to need at most in the next half hour."""

    vm: str
    generation: int
    resident_mib: int
    swapped_mib: int
    held_mib: int
    demand_mib: int
    used_mib: int = 0


class HostSeen(Value):
    """What a decision was based on. forecast_mib: what all VMs are predicted to need, QEMU's own included. calm_s: how long the
    node has had more than enough. fall_mib: how much less is available than a second ago."""

    at_us: int
    total_mib: int
    available_mib: int
    swap_free_mib: int = 0
    psi_some: float = -1.0
    psi_full: float = -1.0
    forecast_mib: int = 0
    calm_s: int = 0
    fall_mib: int = 0


class JudgeMemory(Tick):
    """Look whether this node is short. gripped: something is taken from its VMs. seen, vms: filled in from telemetry by memory's
    own view; none: nothing fresh was heard, or there is nothing to decide."""

    node: Name
    gripped: bool = False
    seen: HostSeen | None = None
    vms: tuple[VmSeen, ...] = ()


class LadderClimbed(Event):
    """Memory is taken back, step by step as listed. short_mib: what lacked to the goal; covered_mib: what these steps bring. waits:
    a VM that stands still and may go on only once there is more than enough, which is the goal then."""

    node: NodeId
    level: Level
    seen: HostSeen
    min_free_mib: int
    short_mib: int
    covered_mib: int
    steps: tuple[LadderStep, ...] = ()
    waits: str = ""


class LadderDescended(Event):
    """The node has enough again: what the steps list is given back, the last taken first."""

    node: NodeId
    level: Level
    seen: HostSeen
    min_free_mib: int
    spare_mib: int
    steps: tuple[LadderStep, ...] = ()


class VmMoveWanted(Event):
    """This VM should run on another node: nothing else is left to take (best-effort VMs only), or a stricter policy is to hold
    (any but critical ones; at_us: when it was wished for). A wish; who migrates decides."""

    node: NodeId
    vm: VmId
    generation: int
    priority: Priority
    memory_mib: int
    short_mib: int
    sentence: str
    at_us: int = 0


class VmPauseWanted(Event):
    """The last rung: this best-effort VM should stand still until the node has memory again. A wish, too."""

    node: NodeId
    vm: VmId
    generation: int
    priority: Priority
    memory_mib: int
    short_mib: int
    sentence: str


LadderEvent = LadderClimbed | LadderDescended | VmMoveWanted | VmPauseWanted
