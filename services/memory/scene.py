"""What the ladder looks at: the VMs of the ledger that were seen and may be touched, joined with what was taken from them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from proto.ladder import HostSeen, JudgeMemory, VmSeen
from proto.machine import Priority
from services.memory.states import Grip, Ledger, Reservation

CALM_PCT = 125
"""of minFree: from here on a node has more than enough"""
HELD_LATE_US = 30_000_000
"""a guest that has not given by then what its balloon asks for is not asked for more"""


@dataclass(frozen=True, slots=True)
class Vm:
    """One VM that may be touched. held_mib: guest memory that the host backs now, or may have to at any time: the balloon's
    target where there is one, and no more than is resident. takes_mib: what its move would bring."""

    name: str
    generation: int
    priority: Priority
    nominal_mib: int
    reservation_mib: int
    held_mib: int
    demand_mib: int
    used_mib: int
    takes_mib: int
    grip: Grip
    ballooned: bool
    late: bool
    pending_mib: int


@dataclass(frozen=True, slots=True)
class Scene:
    """pending_mib: what VMs were asked for and are about to give."""

    ledger: Ledger
    seen: HostSeen
    min_free_mib: int
    vms: tuple[Vm, ...]
    pending_mib: int

    @classmethod
    def of(cls, command: JudgeMemory, ledger: Ledger, min_free_mib: int) -> Self:
        """Critical VMs are not in it, nor VMs that the ledger does not know under that generation."""
        assert command.seen is not None
        now_us = command.seen.at_us
        pairs = ((ledger.reserved.get(v.vm), v) for v in sorted(command.vms, key=lambda v: v.vm))
        vms = tuple(
            _vm(v, held, ledger.grips.get(v.vm) or Grip(generation=v.generation), now_us)
            for held, v in pairs
            if held is not None
            and held.generation == v.generation
            and held.promise.priority is not Priority.CRITICAL
        )
        return cls(ledger, command.seen, min_free_mib, vms, sum(vm.pending_mib for vm in vms if not vm.late))

    @property
    def calm_mib(self) -> int:
        return self.min_free_mib * CALM_PCT // 100

    @property
    def best_effort(self) -> tuple[Vm, ...]:
        return tuple(vm for vm in self.vms if vm.priority is Priority.BEST_EFFORT)


def _vm(seen: VmSeen, held: Reservation, grip: Grip, now_us: int) -> Vm:
    promise = held.promise
    target = grip.target_mib if grip.target_mib >= 0 else promise.nominal_mib
    resident = max(0, seen.resident_mib - promise.overhead_mib)
    owes = max(0, min(seen.held_mib, resident) - target) if seen.held_mib >= 0 else 0
    return Vm(
        name=seen.vm,
        generation=seen.generation,
        priority=promise.priority,
        nominal_mib=promise.nominal_mib,
        reservation_mib=promise.reservation_mib,
        held_mib=min(target, resident),
        demand_mib=seen.demand_mib,
        used_mib=seen.used_mib,
        takes_mib=seen.resident_mib,
        grip=grip,
        ballooned=seen.held_mib >= 0,
        late=owes > promise.nominal_mib // 64 and now_us - grip.at_us > HELD_LATE_US,
        pending_mib=owes,
    )
