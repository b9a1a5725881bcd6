"""The proof over the log: what the ledgers promised was always there, and no critical VM was ever reclaimed from. Pure.

    proof = Proof()
    for position, event in log: proof.look(position, event)
    proof.faults                     sentences; none: it holds at every position

The sums are made here anew from every promise and every capacity, not taken from the events, which must agree with them. At each
position where something is promised, or a person made the room smaller, both limits must hold. A host that lost memory, and a VM
that was found running after a restore, may leave a ledger beyond its limits: these are counted, and nothing new may be promised
until it fits again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from libs.memory.promise import charged_mib, guaranteed_mib, still_taken, taken_mib
from proto.ladder import LadderClimbed, LadderDescended, LadderStep, MemoryPolicy, Rung, VmMoveWanted, VmPauseWanted
from proto.machine import Priority
from proto.memory import (
    CapacityCause,
    CapacityExceeded,
    CapacitySet,
    MemoryDenied,
    MemoryReleased,
    MemoryReserved,
    Promise,
    Purpose,
)

FAULTS_MAX = 100
"""sentences kept; more are only counted"""

RESIZED = (Purpose.HOT_ADD, Purpose.ALLOTMENT)


@dataclass(slots=True)
class _Vm:
    generation: int
    promise: Promise
    target_mib: int = -1
    swap_mib: int = 0


@dataclass(slots=True)
class _Node:
    capacity_mib: int = 0
    share_mib: int = 0
    asked_mib: int = 0
    policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    vms: dict[str, _Vm] = field(default_factory=dict)

    def sums(self) -> tuple[int, int]:
        promises = [vm.promise for vm in self.vms.values()]
        return sum(map(guaranteed_mib, promises)), charged_mib(promises, self.policy)

    def lacking(self) -> int:
        """By how much a limit is broken, the failover share kept; below 0: so much is left."""
        return max(self.sums()) - (self.capacity_mib - self.share_mib)


@dataclass(slots=True)
class Proof:
    """What was looked at, and what did not hold. beyond: positions at which a host's loss, or what was found, broke a limit."""

    faults: list[str] = field(default_factory=list)
    faults_count: int = 0
    positions: int = 0
    promises: int = 0
    denials: int = 0
    steps: int = 0
    wishes: int = 0
    beyond: int = 0
    critical_max: int = 0
    """most critical VMs promised at once"""
    nodes: dict[str, _Node] = field(default_factory=dict)

    def look(self, position: int, event: Any) -> None:
        """Events in log order, those of other streams too; they say nothing here."""
        self.positions += 1
        match event:
            case CapacitySet():
                self._capacity(position, event)
            case MemoryReserved():
                self._reserved(position, event)
            case MemoryReleased():
                self._released(position, event)
            case MemoryDenied():
                self.denials += 1
            case CapacityExceeded():
                self.beyond += 1
            case LadderClimbed() | LadderDescended():
                for step in event.steps:
                    self._step(position, event.node, step, up=isinstance(event, LadderClimbed))
            case VmMoveWanted() | VmPauseWanted():
                self.wishes += 1
                self._never_critical(position, event.node, event.vm, "was wished away or to stand still")

    def told(self) -> dict[str, Any]:
        """The verdict with what was looked at."""
        return {
            "holds": not self.faults_count,
            "positions": self.positions,
            "nodes": len(self.nodes),
            "promises": self.promises,
            "denials": self.denials,
            "critical_max": self.critical_max,
            "ladder_steps": self.steps,
            "wishes": self.wishes,
            "beyond": self.beyond,
            "faults_count": self.faults_count,
            "faults": list(self.faults),
        }

    def _fault(self, position: int, sentence: str) -> None:
        self.faults_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(f"position {position}: {sentence}")

    def _capacity(self, position: int, event: CapacitySet) -> None:
        node = self.nodes.setdefault(event.node, _Node())
        before = node.lacking()
        node.capacity_mib, node.share_mib, node.policy = event.capacity_mib, event.share_mib, event.policy
        node.asked_mib = event.asked_for_mib
        areas_mib = taken_mib(event.areas)
        if event.physical_mib and event.capacity_mib > max(0, event.physical_mib - areas_mib):
            said = f"{event.node} may promise {event.capacity_mib} MiB, and has {event.physical_mib} less areas of {areas_mib}"
            self._fault(position, said)
        if event.policy.class_ratio_pct.get(Priority.CRITICAL.value, 100) != 100:
            self._fault(position, f"{event.node} over-allocates critical VMs")
        lacking = node.lacking()
        if event.cause is not CapacityCause.HOST and lacking > max(0, before):
            self._fault(position, f"{event.cause.value} of {event.node} left {lacking} MiB of its promises without memory")

    def _reserved(self, position: int, event: MemoryReserved) -> None:
        node = self.nodes.setdefault(event.node, _Node())
        had = node.vms.get(event.vm)
        promise = event.promise
        if promise.reservation_mib > promise.nominal_mib:
            self._fault(position, f"{event.vm} has {promise.reservation_mib} MiB reserved of {promise.nominal_mib}")
        if promise.priority is Priority.CRITICAL and promise.reservation_mib != promise.nominal_mib:
            self._fault(position, f"{event.vm} is critical and has only {promise.reservation_mib} MiB reserved")
        same = had is not None and had.generation == event.generation
        vm = node.vms[event.vm] = _Vm(event.generation, promise)
        if had is not None and same:
            vm.target_mib, vm.swap_mib = still_taken(had.target_mib, had.swap_mib, promise)
        self.promises += 1
        critical = sum(v.promise.priority is Priority.CRITICAL for v in node.vms.values())
        self.critical_max = max(self.critical_max, critical)
        sums = node.sums()
        if sums != (event.reserved_mib, event.charged_mib):
            said = f"{event.node} says {event.reserved_mib} and {event.charged_mib} MiB are promised, it is {sums[0]} and {sums[1]}"
            self._fault(position, said)
        self._fits(position, node, event, had)

    def _fits(self, position: int, node: _Node, event: MemoryReserved, had: _Vm | None) -> None:
        kept = {Purpose.FAILOVER: 0, Purpose.MIGRATION: node.asked_mib}.get(event.purpose, node.share_mib)
        room = node.capacity_mib - kept
        over = max(node.sums()) - room
        if over <= 0:
            return
        shrank = event.purpose in RESIZED and had is not None and _no_more(event.promise, had.promise)
        if event.purpose is Purpose.FOUND or shrank:
            self.beyond += 1
        else:
            self._fault(position, f"{event.node} promised {event.vm} {over} MiB more than the {room} it had room for")

    def _released(self, position: int, event: MemoryReleased) -> None:
        node = self.nodes.setdefault(event.node, _Node())
        node.vms.pop(event.vm, None)
        sums = node.sums()
        if sums != (event.reserved_mib, event.charged_mib):
            said = f"{event.node} says {event.reserved_mib} and {event.charged_mib} MiB are left, it is {sums[0]} and {sums[1]}"
            self._fault(position, said)

    def _step(self, position: int, node_name: str, step: LadderStep, up: bool) -> None:
        self.steps += 1
        self._never_critical(position, node_name, step.vm, f"was reclaimed from ({step.rung.value})")
        vm = self.nodes.setdefault(node_name, _Node()).vms.get(step.vm)
        if vm is None or vm.generation != step.generation:
            self._fault(position, f"{node_name} has no {step.vm} of generation {step.generation} to take from")
            return
        if step.rung is Rung.BALLOON:
            vm.target_mib = step.to_mib if step.to_mib < vm.promise.nominal_mib else -1
        if step.rung is Rung.SWAP:
            vm.swap_mib = step.to_mib
        if up and step.rung in {Rung.SWAP, Rung.MOVE, Rung.PAUSE} and vm.promise.priority is not Priority.BEST_EFFORT:
            self._fault(position, f"{step.vm} is {vm.promise.priority.value}: {step.rung.value} is for best-effort VMs only")
        has = (vm.target_mib if vm.target_mib >= 0 else vm.promise.nominal_mib) - vm.swap_mib
        if has < vm.promise.reservation_mib:
            self._fault(position, f"{step.vm} was left {has} MiB of the {vm.promise.reservation_mib} that are its own")

    def _never_critical(self, position: int, node: str, name: str, what: str) -> None:
        vm = self.nodes.setdefault(node, _Node()).vms.get(name)
        if vm is not None and vm.promise.priority is Priority.CRITICAL:
            self._fault(position, f"the critical VM {name} on {node} {what}")


def _no_more(promise: Promise, had: Promise) -> bool:
    return guaranteed_mib(promise) <= guaranteed_mib(had) and promise.nominal_mib <= had.nominal_mib
