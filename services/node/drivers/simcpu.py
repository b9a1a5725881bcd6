"""CPU time on a host in memory: VMs want so much, and are given it by weight, cap and pCPUs. Without clock or I/O.

VMs whose plans name the same pCPUs share those, by their weights, as a fair scheduler does in the long run: who wants less than his
part leaves the rest to the others. Sets that overlap in part are shared as if each were whole (the agents' plans make none).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proto.machine import MachineSpec
from proto.plan import CLASS_WEIGHT, VmPlan
from services.node.drivers import VmCpu
from services.node.host.threads import ThreadTime


@dataclass(frozen=True, slots=True)
class SimWish:
    """want_pct: what the VM would use alone, in percent of one pCPU."""

    vm: str
    pid: int
    spec: MachineSpec
    want_pct: float


@dataclass(slots=True)
class _Counters:
    ran_ns: float = 0.0
    waited_ns: float = 0.0
    throttled_ns: float = 0.0


@dataclass(slots=True)
class SimCpu:
    """plans by process; `cells`: the host's pCPUs by cell."""

    cells: tuple[tuple[int, ...], ...]
    plans: dict[int, VmPlan] = field(default_factory=dict)
    at_us: int = 0
    _counters: dict[int, _Counters] = field(default_factory=dict)

    @property
    def pcpus(self) -> tuple[int, ...]:
        return tuple(p for cell in self.cells for p in cell)

    def advance(self, wishes: Iterable[SimWish], now_us: int) -> None:
        """What was wanted since the last call was wanted all the time."""
        span_ns, self.at_us = max(0, now_us - self.at_us) * 1000, now_us
        groups: defaultdict[tuple[int, ...], list[SimWish]] = defaultdict(list)
        for wish in wishes:
            groups[self._pcpus(wish.pid)].append(wish)
        alive = {wish.pid for group in groups.values() for wish in group}
        self.plans = {pid: plan for pid, plan in self.plans.items() if pid in alive}
        self._counters = {pid: self._counters.get(pid, _Counters()) for pid in alive}
        for pcpus, group in groups.items():
            given = _divide(
                {w.pid: self._most(w) for w in group}, {w.pid: self._weight(w) for w in group}, 100.0 * len(pcpus)
            )
            for wish in group:
                counters, most = self._counters[wish.pid], self._most(wish)
                counters.ran_ns += given[wish.pid] * span_ns / 100
                counters.throttled_ns += (wish.want_pct - most) * span_ns / 100
                counters.waited_ns += (wish.want_pct - given[wish.pid]) * span_ns / 100

    def look(self, wish: SimWish) -> VmCpu:
        """Its time is spread evenly over its vCPUs."""
        plan, counters = self.plans.get(wish.pid), self._counters.get(wish.pid, _Counters())
        vcpus = wish.spec.shape.vcpus
        pcpus = self._pcpus(wish.pid)
        return VmCpu(
            vm=wish.vm,
            generation=wish.spec.generation,
            vcpus=tuple(
                ThreadTime(
                    wish.pid + 1 + n, int(counters.ran_ns / vcpus), int(counters.waited_ns / vcpus),
                    plan.pins[n] if plan and n < len(plan.pins) else pcpus, pcpus[n % len(pcpus)],
                )
                for n in range(vcpus)
            ),
            others=1,
            others_pcpus=plan.threads if plan else self.pcpus,
            weight=self._weight(wish),
            cap_pct=self._cap(wish),
            throttled_ns=int(counters.throttled_ns),
        )  # fmt: skip

    def _pcpus(self, pid: int) -> tuple[int, ...]:
        plan = self.plans.get(pid)
        return plan.pcpus if plan and plan.pcpus else self.pcpus

    def _weight(self, wish: SimWish) -> int:
        plan = self.plans.get(wish.pid)
        return plan.weight if plan else wish.spec.allotment.cpu_weight or CLASS_WEIGHT[wish.spec.priority]

    def _most(self, wish: SimWish) -> float:
        cap_pct = self._cap(wish)
        return min(wish.want_pct, cap_pct) if cap_pct else wish.want_pct

    def _cap(self, wish: SimWish) -> int:
        plan = self.plans.get(wish.pid)
        return plan.cap_pct if plan else wish.spec.allotment.cpu_cap_pct


def _divide(wants: Mapping[int, float], weights: Mapping[int, int], room: float) -> dict[int, float]:
    """Max-min by weight: all that want less than their part get what they want, and the rest is divided again."""
    given: dict[int, float] = {}
    open_ = dict(wants)
    while open_:
        total = sum(weights[pid] for pid in open_)
        part = {pid: room * weights[pid] / total for pid in open_}
        content = {pid: want for pid, want in open_.items() if want <= part[pid]}
        if not content:
            return given | part
        given |= content
        room -= sum(content.values())
        open_ = {pid: want for pid, want in open_.items() if pid not in content}
    return given
