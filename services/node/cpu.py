"""From two looks at the counters to what each VM used, waited for and was satisfied with. Pure.

demand        what a VM used, and what its vCPUs waited for (they could have run)
entitlement   its cap, and a pCPU for each vCPU
satisfaction  used / demand, where demand is counted up to the entitlement; 100 % for one that wants nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proto.plan import CpuBeat, PlanFault, VcpuSchedule, VmCpuBeat, VmPlan, VmSchedule
from services.node.drivers import VmCpu

IDLE_PCT = 1.0
"""A VM that demands less is idle: nothing is said of its satisfaction from so few samples."""


def satisfaction_pct(used_pct: float, waited_pct: float, cap_pct: int, vcpus: int) -> float:
    most = min(cap_pct or float("inf"), 100.0 * max(1, vcpus))
    demand = min(used_pct + waited_pct, most)
    return 100.0 if demand < IDLE_PCT else min(100.0, 100.0 * used_pct / demand)


@dataclass(slots=True)
class Meter:
    """Keeps the last look; `look` gives the beat between it and the new one, None at the first."""

    node: str
    at_us: int = 0
    before: dict[str, VmCpu] = field(default_factory=dict)
    ticks: tuple[int, int] = (0, 0)
    beat: CpuBeat | None = None

    def look(self, seen: Iterable[VmCpu], ticks: tuple[int, int], now_us: int) -> CpuBeat | None:
        """ticks: the host's (stolen, all)."""
        now = {vm.vm: vm for vm in seen}
        window_us, all_ticks = now_us - self.at_us, ticks[1] - self.ticks[1]
        first = not self.at_us
        steal = 100.0 * (ticks[0] - self.ticks[0]) / all_ticks if all_ticks > 0 and not first else 0.0
        pairs = [(self.before.get(name), vm) for name, vm in sorted(now.items())]
        self.at_us, self.before, self.ticks = now_us, now, ticks
        if first or window_us <= 0:
            return None
        beats = tuple(_beat(old, vm, window_us * 1000) for old, vm in pairs if old is not None and _same(old, vm))
        self.beat = CpuBeat(self.node, now_us, window_us // 1000, round(steal, 1), beats)
        return self.beat


def _same(old: VmCpu, new: VmCpu) -> bool:
    return old.generation == new.generation and [t.thread for t in old.vcpus] == [t.thread for t in new.vcpus]


def _beat(old: VmCpu, new: VmCpu, window_ns: int) -> VmCpuBeat:
    def pct(now_ns: int, then_ns: int) -> float:
        return max(0.0, 100.0 * (now_ns - then_ns) / window_ns)

    vcpus = [
        (pct(b.ran_ns, a.ran_ns), pct(b.waited_ns, a.waited_ns)) for a, b in zip(old.vcpus, new.vcpus, strict=True)
    ]
    used = sum(ran for ran, _ in vcpus) + pct(new.others_ran_ns, old.others_ran_ns)
    waited = sum(wait for _, wait in vcpus)
    count = max(1, len(vcpus))
    return VmCpuBeat(
        vm=new.vm,
        generation=new.generation,
        used_pct=round(used, 1),
        ready_pct=round(waited / count, 1),
        throttled_pct=round(pct(new.throttled_ns, old.throttled_ns), 1),
        satisfaction_pct=round(satisfaction_pct(used, waited, new.cap_pct, count), 1),
        demand_pct=round(min(used + waited, new.cap_pct or used + waited), 1),
        vcpus=tuple((round(ran, 1), round(wait, 1)) for ran, wait in vcpus),
    )


def schedule(
    vm: VmCpu, beat: CpuBeat | None, plan: VmPlan | None, faults: tuple[PlanFault, ...], node: str
) -> VmSchedule:
    """Both levels of one VM: what is set now, and how it fared in the latest window."""
    beats: Mapping[str, VmCpuBeat] = {b.vm: b for b in beat.vms} if beat else {}
    fared = beats.get(vm.vm)
    pairs = fared.vcpus if fared and len(fared.vcpus) == len(vm.vcpus) else ((0.0, 0.0),) * len(vm.vcpus)
    made = VmSchedule(
        vm=vm.vm,
        node=node,
        generation=vm.generation,
        weight=vm.weight,
        cap_pct=vm.cap_pct,
        vcpus=tuple(
            VcpuSchedule(vcpu=n, thread=t.thread, pcpus=t.pcpus, last_pcpu=t.last_pcpu, used_pct=used, ready_pct=ready)
            for n, (t, (used, ready)) in enumerate(zip(vm.vcpus, pairs, strict=True))
        ),
        threads=vm.others,
        thread_pcpus=vm.others_pcpus,
        steal_pct=beat.steal_pct if beat else 0.0,
        window_ms=beat.window_ms if beat and fared else 0,
        plan=plan if plan and plan.generation == vm.generation else None,
        faults=faults,
        used_pct=fared.used_pct if fared else 0.0,
        ready_pct=fared.ready_pct if fared else 0.0,
        throttled_pct=fared.throttled_pct if fared else 0.0,
        satisfaction_pct=fared.satisfaction_pct if fared else 100.0,
    )
    return made
