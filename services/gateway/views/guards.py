"""Guards of VMs, what is owed, and what is kept free for lost nodes' VMs, as the events tell of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from libs.common.messages import Recorded
from proto.compute import NodeRemoved, VmDeleted
from proto.guard import (
    GuardEnded,
    GuardSet,
    Mode,
    RestartWanted,
    Then,
    VmInHand,
    VmOwed,
    VmRecovered,
    VmUnplaced,
    held_fast,
)
from proto.lease import NodeIsolated, NodeLost, NodeOffProven, NodeReturned, NodeSuspected, NodeTrusted
from proto.reserve import Plan, ReserveSet

if TYPE_CHECKING:
    from services.gateway.views.vms import Vm

OF_VM_MAX = 32
OF_NODE_MAX = 16
BEFORE_MAX = 3
"""of what was concluded of its node before a VM was owed: suspected, isolated, lost"""
GUARDS = (GuardSet, VmOwed, RestartWanted, VmInHand, VmUnplaced, VmRecovered, GuardEnded)
NODES = (NodeSuspected, NodeTrusted, NodeIsolated, NodeLost, NodeOffProven, NodeReturned)


class Rules(msgspec.Struct):
    """As proto.guard.Guard says, nothing left out."""

    mode: Mode = Mode.AUTO
    after: tuple[str, ...] = ()
    hangs: bool = True
    panics: bool = True
    panic_wait_s: int = 0
    failures_max: int = 3
    window_s: int = 1800
    then: Then = Then.ELSEWHERE
    grace_s: int = 120


class Owed(msgspec.Struct):
    """A VM that is to run and does not, since since_us. cause: why; attempt: how often it was tried; sentence, remedy: why it was
    owed, or why it could not be started and what would make it possible; try_us: tried again then at the latest, 0: it is being
    started."""

    cause: str
    since_us: int
    sentence: str = ""
    remedy: str = ""
    attempt: int = 0
    try_us: int = 0


class Guarded(msgspec.Struct):
    """ended: why its guard let it go last, if nothing has come of it since. positions: of its story, and of its node's. stays: why
    it could be started again only where its disks are, as far as it is shown."""

    guard: Rules = msgspec.field(default_factory=Rules)
    owed: Owed | None = None
    ended: str = ""
    given_up: bool = False
    positions: list[int] = []
    stays: str = ""


@dataclass(slots=True)
class GuardsView:
    """all: by VM, those of which there is anything to tell. nodes: positions of what was concluded of each node, the newest.
    reserve: None: nothing was ever weighed."""

    all: dict[str, Guarded] = field(default_factory=dict)
    nodes: dict[str, list[int]] = field(default_factory=dict)
    reserve: Plan | None = None
    reserve_us: int = 0

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case VmDeleted():
                self.all.pop(event.vm, None)
            case NodeRemoved():
                self.nodes.pop(event.node, None)
            case ReserveSet():
                self.reserve, self.reserve_us = event.plan, event.at_us
            case _ if isinstance(event, GUARDS):
                one = self.all.setdefault(event.vm, Guarded())
                before = self.nodes.get(event.node, ())[-BEFORE_MAX:] if isinstance(event, VmOwed) else ()
                one.positions = [*one.positions, *(at for at in before if at not in one.positions), recorded.position][-OF_VM_MAX:]
                _guard(one, event)
            case _ if isinstance(event, NODES):
                self.nodes[event.node] = [*self.nodes.get(event.node, ())[1 - OF_NODE_MAX :], recorded.position]

    def guard(self, vm: str) -> Guarded:
        return self.all.get(vm) or Guarded()


def _guard(one: Guarded, event: Any) -> None:
    match event:
        case GuardSet():
            one.guard = Rules(**msgspec.structs.asdict(event.guard))
        case VmOwed():
            before = one.owed
            since_us, attempt = (before.since_us, before.attempt) if before else (event.at_us, 0)
            one.owed = Owed(event.cause, since_us, event.sentence, attempt=attempt, try_us=event.try_us)
            one.ended, one.given_up = "", False
        case RestartWanted() if one.owed is not None:
            one.owed.attempt, one.owed.try_us = event.attempt, 0
        case VmInHand() if one.owed is not None:
            one.owed.try_us = 0
        case VmUnplaced() if one.owed is not None:
            one.owed.sentence, one.owed.remedy, one.owed.try_us = event.sentence, event.remedy, event.try_us
        case VmRecovered():
            one.owed, one.ended, one.given_up = None, "", False
        case GuardEnded():
            one.owed, one.ended, one.given_up = None, event.sentence, event.given_up


def stays(vm: Vm, counts: Mapping[str, Counter[str]]) -> str:
    """Why it could be started only where its disks are; "": elsewhere too. counts: as proto.guard.reaching."""
    wished = ((wish.pool, "") for wish in vm.disk_wishes if not wish.bus.is_cd)
    pools = sorted({(disk.pool, disk.pool_id) for disk in vm.disks if not disk.bus.is_cd} or set(wished))
    return next(filter(None, (held_fast(pool, word, counts) for pool, word in pools)), "")
