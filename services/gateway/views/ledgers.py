"""What the API shows of each node's memory ledger, folded from the log. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.messages import Recorded
from proto import compute as c
from proto import ladder, memory
from services.gateway import reclaim


class Promised(msgspec.Struct):
    """A VM in a ledger: its class, its memory, and what of it is never taken back."""

    vm: str
    generation: int
    priority: str
    nominal_mib: int
    reservation_mib: int
    overhead_mib: int


DECISIONS_MAX = 5


class Taken(msgspec.Struct):
    """A decision of the reclaim ladder: when, at which level, how the node was and what was done, in words; steps: on which
    figures, a line for each VM."""

    at_us: int
    level: str
    sentence: str
    steps: list[str]


class Ledger(msgspec.Struct):
    """physical_mib less the areas is capacity_mib; share_mib of that is kept for failover. reserved_mib: reservations and overhead;
    charged_mib: nominal memory by its ratio: both are held to what is left.
    nominal_mib: the sum of it by no ratio. faults: what the node could not apply. taken: the reclaim ladder's last decisions, the
    newest last."""

    physical_mib: int = 0
    capacity_mib: int = 0
    share_mib: int = 0
    swap_mib: int = 0
    reserved_mib: int = 0
    charged_mib: int = 0
    short_mib: int = 0
    nominal_mib: int = 0
    policy: ladder.MemoryPolicy | None = None
    areas: tuple[memory.Area, ...] = ()
    areas_set: bool = False
    memory_areas: str = ""
    faults: tuple[str, ...] = ()
    vms: dict[str, Promised] = msgspec.field(default_factory=dict)
    taken: list[Taken] = []


@dataclass(slots=True)
class LedgersView:
    """`all`: by node; a node that was removed has none."""

    all: dict[str, Ledger] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        if isinstance(event, c.NodeRemoved):
            self.all.pop(event.node, None)
            return
        if not recorded.stream.startswith("ledger-"):
            return
        ledger = self.all.setdefault(recorded.stream.removeprefix("ledger-"), Ledger())
        match event:
            case memory.CapacitySet():
                ledger.physical_mib, ledger.capacity_mib = event.physical_mib, event.capacity_mib
                ledger.share_mib, ledger.swap_mib = event.share_mib, event.swap_mib
                ledger.policy = event.policy
                ledger.areas, ledger.areas_set, ledger.memory_areas = event.areas, event.areas_set, event.memory_areas
                ledger.reserved_mib, ledger.charged_mib = event.promised_mib, event.charged_mib
                ledger.short_mib = max(0, max(event.promised_mib, event.charged_mib) - event.capacity_mib)
            case memory.MemoryReserved():
                _reserved(ledger, event)
            case memory.MemoryReleased():
                ledger.vms.pop(event.vm, None)
                ledger.reserved_mib, ledger.charged_mib = event.reserved_mib, event.charged_mib
            case memory.MemoryOrderReported():
                ledger.faults = event.faults
            case ladder.LadderClimbed() | ladder.LadderDescended():
                now = Taken(event.seen.at_us, event.level, reclaim.said(event), reclaim.figures(event.steps))
                ledger.taken = [*ledger.taken[1 - DECISIONS_MAX :], now]


def _reserved(ledger: Ledger, event: memory.MemoryReserved) -> None:
    promise = event.promise
    ledger.reserved_mib, ledger.charged_mib = event.reserved_mib, event.charged_mib
    ledger.vms[event.vm] = Promised(
        event.vm, event.generation, promise.priority, promise.nominal_mib, promise.reservation_mib, promise.overhead_mib
    )
