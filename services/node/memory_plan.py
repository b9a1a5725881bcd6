"""One node's memory as ordered (OrderMemory), versus as it is. A stepper: no I/O, no clock.

The newest order holds until the next. Each turn it is held against what the balloons say, and what differs is done: areas once an
order, a VM's own limits once they change, its balloon until it has come to its target or BALLOON_US have passed; then that is a
fault, and is asked for again every AGAIN_US. A VM that the order does not name gets all its memory back.

Faults are reported once all that was ordered is done or late; later, when they change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from libs.common.messages import NodeId
from proto.memory import Area, ReportMemory
from proto.node import Heard, MemoryTarget, OrderMemory

BALLOON_US = 10_000_000
"""how long a guest may take to give back, or take, what was ordered"""
AGAIN_US = 10_000_000
FAULTS_MAX = 100
CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Balloon:
    """nominal_mib: the VM's memory; actual_mib: what its guest has of it now, -1: not known; beyond_mib: what of it no balloon
    reaches, as the VM has grown by it."""

    generation: int
    nominal_mib: int
    actual_mib: int
    beyond_mib: int = 0


@dataclass(frozen=True, slots=True)
class Divide:
    """Make these areas; then `done`."""

    areas: tuple[Area, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """A VM's own limits, and whether its pages may be merged; then `done`."""

    vm: str
    high_mib: int
    swap_max_mib: int
    merge: bool


@dataclass(frozen=True, slots=True)
class Inflate:
    """Ask the guest to come to so much memory; then `done`."""

    vm: str
    mib: int


type Act = Divide | Limit | Inflate


@dataclass(slots=True)
class _Aim:
    """since_us: from when on the guest has been away from its target."""

    generation: int
    mib: int
    since_us: int
    asked_us: int = -AGAIN_US
    reached: bool = False
    late: bool = False


@dataclass(slots=True)
class MemoryPlan:
    node: NodeId
    order: OrderMemory | None = None
    _divided: tuple[int, int] = (0, 0)
    _limits: dict[str, tuple[int, Limit]] = field(default_factory=dict)
    _aims: dict[str, _Aim] = field(default_factory=dict)
    _faults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _said: tuple[str, ...] = ()
    _said_for: tuple[int, int] = (0, 0)
    _said_us: int = 0

    def on_order(self, order: OrderMemory, incarnation: int) -> Heard:
        """incarnation: the highest of the log that the agent has met."""
        if order.incarnation < incarnation:
            said = f"the order is of incarnation {order.incarnation} of the log; this node has met {incarnation}"
            return Heard(accepted=False, sentence=said)
        if self.order is not None and _stamp(order) < _stamp(self.order):
            said = f"memory order {order.version} is older than {self.order.version}"
            return Heard(accepted=False, sentence=said)
        self.order = order
        return Heard(accepted=True)

    @property
    def settled(self) -> bool:
        """All that was ordered is done, or is late."""
        if self.order is None:
            return True
        return self._divided == _stamp(self.order) and all(aim.reached or aim.late for aim in self._aims.values())

    def step(self, vms: Mapping[str, Balloon], now_us: int) -> list[Act]:
        """What is to be done now. vms: those that run."""
        if self.order is None:
            return []
        self._forget(vms)
        acts: list[Act] = [] if self._divided == _stamp(self.order) else [Divide(self.order.limits)]
        targets = {t.vm: t for t in self.order.targets}
        for vm, balloon in sorted(vms.items()):
            target = targets.get(vm)
            if target is not None and target.generation != balloon.generation:
                target = None
            acts += self._limit(vm, balloon, target)
            acts += self._aim(vm, balloon, target, now_us)
        return acts

    def done(self, act: Act, faults: Sequence[str]) -> None:
        """An act was tried; what of it could not be done."""
        match act:
            case Divide():
                assert self.order is not None
                self._divided = _stamp(self.order) if act.areas == self.order.limits else self._divided
                self._note("areas", faults)
            case Limit(vm=vm):
                self._note(f"limits {vm}", [f"{vm}: {text}" for text in faults])
            case Inflate(vm=vm):
                self._note(f"asked {vm}", [f"{vm}: {text}" for text in faults])

    def report(self, now_us: int) -> ReportMemory | None:
        """What is to be told now, until `heard`. Faults that change all the time (a guest at its limit) are told every AGAIN_US."""
        if self.order is None or not self.settled:
            return None
        faults = tuple(text[:CHARS_MAX] for key in sorted(self._faults) for text in self._faults[key])[:FAULTS_MAX]
        stamp = _stamp(self.order)
        if faults == self._said and (not faults or stamp == self._said_for):
            return None
        if stamp == self._said_for and now_us - self._said_us < AGAIN_US:
            return None
        return ReportMemory(
            node=self.node, order_version=self.order.version, order_incarnation=self.order.incarnation, faults=faults
        )

    def heard(self, report: ReportMemory, now_us: int) -> None:
        self._said, self._said_for = report.faults, (report.order_incarnation, report.order_version)
        self._said_us = now_us

    def _limit(self, vm: str, balloon: Balloon, target: MemoryTarget | None) -> list[Act]:
        limit = Limit(vm, 0, 0, False)
        if target is not None:
            limit = Limit(vm, target.high_mib, target.swap_max_mib, target.merge)
        if self._limits.get(vm) == (balloon.generation, limit):
            return []
        self._limits[vm] = (balloon.generation, limit)
        return [limit]

    def _aim(self, vm: str, balloon: Balloon, target: MemoryTarget | None, now_us: int) -> list[Act]:
        want = balloon.nominal_mib if target is None else min(target.target_mib, balloon.nominal_mib)
        aim = self._aims.get(vm)
        if aim is None or (aim.generation, aim.mib) != (balloon.generation, want):
            aim = self._aims[vm] = _Aim(balloon.generation, want, now_us)
        if balloon.actual_mib == want or (balloon.actual_mib < 0 and target is None):
            aim.reached, aim.late, aim.since_us = True, False, now_us
            self._note(f"balloon {vm}", ())
            return []
        aim.reached = False
        aim.late = now_us - aim.since_us >= BALLOON_US
        if aim.late:
            self._note(f"balloon {vm}", [f"{vm}: {_lag(balloon, want, (now_us - aim.since_us) // 1_000_000)}"])
        if now_us - aim.asked_us < AGAIN_US:
            return []
        aim.asked_us = now_us
        return [Inflate(vm, want)]

    def _forget(self, vms: Mapping[str, Balloon]) -> None:
        """Those that have ended, with their faults."""
        for vm in [vm for vm in self._limits if vm not in vms]:
            del self._limits[vm]
            self._aims.pop(vm, None)
            for what in ("limits", "asked", "balloon"):
                self._faults.pop(f"{what} {vm}", None)

    def _note(self, key: str, faults: Sequence[str]) -> None:
        if faults:
            self._faults[key] = tuple(faults)
        else:
            self._faults.pop(key, None)


def _stamp(order: OrderMemory) -> tuple[int, int]:
    return order.incarnation, order.version


def _lag(balloon: Balloon, want: int, since_s: int) -> str:
    """Without the seconds that would make it another sentence at each turn."""
    if balloon.actual_mib < 0:
        return f"its balloon does not answer; {want} MiB were ordered"
    if balloon.actual_mib <= balloon.beyond_mib + 1 and want < balloon.actual_mib:
        more = f"the {balloon.beyond_mib} MiB that it has grown by are beyond its balloon's reach"
        return f"its guest has {balloon.actual_mib} MiB, {want} were ordered, and {more}"
    doing = "gives no more back" if balloon.actual_mib > want else "takes no more"
    return f"its guest has {balloon.actual_mib} MiB and {doing}; {want} MiB were ordered (does its balloon driver run?)"
