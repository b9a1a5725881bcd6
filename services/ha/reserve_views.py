"""What the reserve is made of: ledgers, their VMs, and which nodes take any. Folded from the log. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from libs.common.host import hearing
from libs.common.messages import Command, Recorded
from libs.memory.promise import charge_mib, guaranteed_mib, ratio_pct
from proto.compute import NodeCordoned, NodeRemoved, NodeReported, NodeUncordoned, VmDeleted, VmDevicesNoted
from proto.guard import Guard, GuardEnded, GuardSet, Mode, VmOwed, VmRecovered
from proto.ladder import MemoryPolicy
from proto.lease import HaSet, HaSettings, NodeLost, NodeReturned
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved, Promise
from proto.reserve import Plan, ReserveSet, WeighReserve
from services.ha.guard_views import GuardViews
from services.ha.reserve_rule import Room, plan

FOLLOWS = (CapacitySet, MemoryReserved, MemoryReleased, NodeCordoned, NodeUncordoned, NodeRemoved, VmDeleted)
"""events of others that this is made of (HEARS below has ha's own, and what other parts follow)"""
DEFAULT = MemoryPolicy()
PLANS_MAX = 64
"""that are remembered with what they were made of"""


@dataclass(slots=True)
class Ledger:
    capacity_mib: int
    policy: MemoryPolicy
    taken_mib: int = 0
    vms: dict[str, Promise] = field(default_factory=dict)


class _Derived:
    """Beside the fields of the views, which go into snapshots: each node's room, until something of it changes."""

    __slots__ = ("held", "rooms")
    rooms: dict[str, Room]
    held: dict[str, tuple[str, ...]]


@dataclass(slots=True)
class ReserveViews(_Derived):
    """known: what each VM was last promised. stale: something changed since `plan` was made.
    chosen: the last that was decided."""

    NOT_OF_LOG: ClassVar = frozenset({"stale", "plan"})

    ledgers: dict[str, Ledger] = field(default_factory=dict)
    known: dict[str, Promise] = field(default_factory=dict)
    cordoned: set[str] = field(default_factory=set)
    stale: bool = True
    plan: Plan | None = None
    chosen: Plan | None = None

    def __post_init__(self) -> None:
        self.rooms, self.held = {}, {}  # type: ignore[misc]  # mypy sees own slots only
        for node, ledger in self.ledgers.items():
            for vm in ledger.vms:
                self.held[vm] = (*self.held.get(vm, ()), node)

    def _chosen(self, recorded: Recorded, event: ReserveSet) -> None:
        self.chosen = event.plan

    def _capacity(self, recorded: Recorded, event: CapacitySet) -> None:
        ledger = self._changed(event.node, event.policy)
        ledger.capacity_mib, ledger.policy = event.capacity_mib, event.policy
        ledger.taken_mib = max(event.promised_mib, event.charged_mib)

    def _reserved(self, recorded: Recorded, event: MemoryReserved) -> None:
        ledger, vm = self._changed(event.node, DEFAULT), event.vm
        ledger.vms[vm] = self.known[vm] = event.promise
        held = self.held.get(vm, ())
        if event.node not in held:
            self.held[vm] = (*held, event.node)
        ledger.taken_mib = max(event.reserved_mib, event.charged_mib)

    def _released(self, recorded: Recorded, event: MemoryReleased) -> None:
        self.stale = True
        if event.node in self.ledgers:
            ledger = self._changed(event.node, DEFAULT)
            ledger.vms.pop(event.vm, None)
            self._let_go(event.vm, event.node)
            ledger.taken_mib = max(event.reserved_mib, event.charged_mib)

    def _let_go(self, vm: str, node: str) -> None:
        held = self.held.pop(vm, ())
        if held and held != (node,):
            self.held[vm] = tuple([other for other in held if other != node])

    def _changed(self, node: str, policy: MemoryPolicy) -> Ledger:
        """Its ledger, whose room may be another."""
        self.stale = True
        self.rooms.pop(node, None)
        found = self.ledgers.get(node)
        if found is None:
            found = self.ledgers[node] = Ledger(0, policy)
        return found

    def _of_vm(self, recorded: Recorded, event: Any) -> None:
        """The rooms that may be others by it."""
        self.stale = True
        for node in self.held.get(event.vm, ()):
            self.rooms.pop(node, None)
        if type(event) is VmDeleted:
            self.known.pop(event.vm, None)

    def _of_node(self, recorded: Recorded, event: Any) -> None:
        self.stale = True
        match event:
            case NodeCordoned():
                self.cordoned.add(event.node)
            case NodeUncordoned():
                self.cordoned.discard(event.node)
            case NodeRemoved():
                self.cordoned.discard(event.node)
                gone = self.ledgers.pop(event.node, None)
                for vm in gone.vms if gone is not None else ():
                    self._let_go(vm, event.node)
        if isinstance(event, NodeReported | NodeRemoved):  # a pool may be reached by more nodes, or fewer
            self.rooms.clear()

    HEARS: ClassVar[hearing.Heard] = {
        ReserveSet: _chosen,
        CapacitySet: _capacity,
        MemoryReserved: _reserved,
        MemoryReleased: _released,
        **dict.fromkeys((VmDeleted, VmOwed, VmRecovered, GuardEnded, GuardSet, VmDevicesNoted), _of_vm),
        **dict.fromkeys((NodeCordoned, NodeUncordoned, NodeRemoved, HaSet, NodeLost, NodeReturned, NodeReported), _of_node),
    }

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
        there = {name: self._room(name, guards) for name, ledger in self.ledgers.items() if ledger.capacity_mib > 0}
        away = {name for name, room in there.items() if name in guards.lost or (name in self.cordoned and room.needs)}
        rooms = {name: room for name, room in there.items() if name not in away | self.cordoned}
        waiting = [mib for name in sorted(away) for mib in there[name].needs]
        return _planned(guards.settings, tuple(rooms.items()), frozenset(away), (*waiting, *self._owed(guards)))

    def _room(self, name: str, guards: GuardViews) -> Room:
        if name not in self.rooms:
            self.rooms[name] = _room(self.ledgers[name], guards)
        return self.rooms[name]

    def _owed(self, guards: GuardViews) -> Iterator[int]:
        """What VMs would take that are owed, and hold nothing anywhere yet."""
        for vm in sorted(guards.owed):
            promise = self.known.get(vm)
            if promise is not None and not self.held.get(vm) and _moves(vm, guards):
                yield need_mib(promise, MemoryPolicy())


@lru_cache(PLANS_MAX)
def _planned(settings: HaSettings, rooms: tuple[tuple[str, Room], ...], away: frozenset[str], waiting: tuple[int, ...]) -> Plan:
    """Much that changes leaves all this as it was."""
    return plan(settings, dict(rooms), away, waiting)


def _moves(vm: str, guards: GuardViews) -> bool:
    """It would be started elsewhere."""
    mode = guards.guards.get(vm, Guard()).mode
    return mode in (Mode.AUTO, Mode.RESTART) and not guards.why_not(vm)


def _room(ledger: Ledger, guards: GuardViews) -> Room:
    needs = {vm: need_mib(promise, ledger.policy) for vm, promise in ledger.vms.items() if _moves(vm, guards)}
    largest = max(needs, key=lambda vm: (needs[vm], vm), default="")
    return Room(ledger.capacity_mib, ledger.taken_mib, tuple(needs.values()), largest)


def need_mib(promise: Promise, policy: MemoryPolicy) -> int:
    """By the tighter of a ledger's two limits."""
    charged = charge_mib(promise.nominal_mib, ratio_pct(policy, promise.priority))
    return max(guaranteed_mib(promise), charged)
