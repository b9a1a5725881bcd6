"""What the reserve is made of: ledgers, their VMs, and which nodes take any. Folded from the log. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Command
from libs.memory.promise import charge_mib, guaranteed_mib, ratio_pct
from proto.compute import NodeCordoned, NodeRemoved, NodeReported, NodeUncordoned, VmDeleted, VmDevicesNoted
from proto.guard import Guard, GuardEnded, GuardSet, Mode, VmOwed, VmRecovered
from proto.ladder import MemoryPolicy
from proto.lease import HaSet, NodeLost, NodeReturned
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved, Promise
from proto.reserve import Plan, ReserveSet, WeighReserve
from services.ha.guard_views import GuardViews
from services.ha.reserve_rule import Room, plan

CHANGES = (
    *(CapacitySet, MemoryReserved, MemoryReleased, NodeCordoned, NodeUncordoned, NodeRemoved, VmDeleted),
    *(VmOwed, VmRecovered, GuardEnded, GuardSet, HaSet, NodeLost, NodeReturned, NodeReported, VmDevicesNoted),
)
FOLLOWS = (CapacitySet, MemoryReserved, MemoryReleased, NodeCordoned, NodeUncordoned, NodeRemoved, VmDeleted)
"""events of others among them"""


@dataclass(slots=True)
class Ledger:
    capacity_mib: int
    policy: MemoryPolicy
    taken_mib: int = 0
    vms: dict[str, Promise] = field(default_factory=dict)


@dataclass(slots=True)
class ReserveViews:
    """known: what each VM was last promised. stale: something changed since `plan` was made.
    chosen: the last that was decided."""

    ledgers: dict[str, Ledger] = field(default_factory=dict)
    known: dict[str, Promise] = field(default_factory=dict)
    cordoned: set[str] = field(default_factory=set)
    stale: bool = True
    plan: Plan | None = None
    chosen: Plan | None = None

    def apply(self, event: Any) -> None:
        if isinstance(event, ReserveSet):
            self.chosen = event.plan
        if not isinstance(event, CHANGES):
            return
        self.stale = True
        match event:
            case CapacitySet():
                ledger = self.ledgers.setdefault(event.node, Ledger(0, event.policy))
                ledger.capacity_mib, ledger.policy = event.capacity_mib, event.policy
                ledger.taken_mib = max(event.promised_mib, event.charged_mib)
            case MemoryReserved():
                ledger = self.ledgers.setdefault(event.node, Ledger(0, MemoryPolicy()))
                ledger.vms[event.vm] = self.known[event.vm] = event.promise
                ledger.taken_mib = max(event.reserved_mib, event.charged_mib)
            case MemoryReleased() if event.node in self.ledgers:
                ledger = self.ledgers[event.node]
                ledger.vms.pop(event.vm, None)
                ledger.taken_mib = max(event.reserved_mib, event.charged_mib)
            case NodeCordoned():
                self.cordoned.add(event.node)
            case NodeUncordoned():
                self.cordoned.discard(event.node)
            case NodeRemoved():
                self.cordoned.discard(event.node)
                self.ledgers.pop(event.node, None)
            case VmDeleted():
                self.known.pop(event.vm, None)

    def look(self, now_us: int, guards: GuardViews) -> Iterator[Command]:
        """Where another plan is due than the one that was set last."""
        if self.weighed(guards) != self.chosen:
            yield WeighReserve(now_us=now_us)

    def weighed(self, guards: GuardViews) -> Plan:
        """Made anew where something changed."""
        if self.plan is None or self.stale:
            self.plan, self.stale = self._weigh(guards), False
        return self.plan

    def _weigh(self, guards: GuardViews) -> Plan:
        there = {name: ledger for name, ledger in self.ledgers.items() if ledger.capacity_mib > 0}
        moving = {vm for ledger in there.values() for vm in ledger.vms if _moves(vm, guards)}
        away = {name for name in there if name in guards.lost}
        away |= {name for name in there if name in self.cordoned and moving & there[name].vms.keys()}
        rooms = {name: _room(led, moving) for name, led in there.items() if name not in away | self.cordoned}
        waiting = [mib for name in sorted(away) for mib in _room(there[name], moving).needs]
        held = {vm for name, ledger in there.items() if name not in guards.lost for vm in ledger.vms}
        return plan(guards.settings, rooms, away, [*waiting, *self._owed(guards, held)])

    def _owed(self, guards: GuardViews, held: set[str]) -> Iterator[int]:
        """What VMs would take that are owed, and hold nothing anywhere yet."""
        lost = {vm for name, ledger in self.ledgers.items() if name in guards.lost for vm in ledger.vms}
        for vm in sorted(guards.owed):
            promise = self.known.get(vm)
            if promise is not None and vm not in held and vm not in lost and _moves(vm, guards):
                yield need_mib(promise, MemoryPolicy())


def _moves(vm: str, guards: GuardViews) -> bool:
    """It would be started elsewhere."""
    mode = guards.guards.get(vm, Guard()).mode
    return mode in (Mode.AUTO, Mode.RESTART) and not guards.why_not(vm)


def _room(ledger: Ledger, moving: set[str]) -> Room:
    needs = {vm: need_mib(promise, ledger.policy) for vm, promise in ledger.vms.items() if vm in moving}
    largest = max(needs, key=lambda vm: (needs[vm], vm), default="")
    return Room(ledger.capacity_mib, ledger.taken_mib, tuple(needs.values()), largest)


def need_mib(promise: Promise, policy: MemoryPolicy) -> int:
    """By the tighter of a ledger's two limits."""
    charged = charge_mib(promise.nominal_mib, ratio_pct(policy, promise.priority))
    return max(guaranteed_mib(promise), charged)
