"""How much CPU time the VMs of a node want and wait for, as the placement of another VM there counts it: smoothed telemetry."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from proto.plan import CpuBeat

TIME_US = 60_000_000
"""After so long a lasting change counts by 63 %: bursts pass, and what lasts a few minutes is there for the next VM too."""

GAP_US_MAX = 30_000_000
"""After a longer silence it begins anew."""

READY_STEP_PCT = 5
"""Shares count in such steps, and demand in quarters of a pCPU, so that not every beat changes a node's facts."""

DEMAND_STEPS = 4

STEAL_PCT_MAX = 95
"""Something is left of every pCPU, or it could not have been measured."""


@dataclass(slots=True)
class Waits:
    """demand, waited: pCPUs; waited without what a cap of their own held VMs. steal_pct: of the host's pCPUs."""

    demand: float = 0.0
    waited: float = 0.0
    steal_pct: float = 0.0
    at_us: int = 0

    def hear(self, beat: CpuBeat, now_us: int) -> None:
        demand = sum(vm.demand_pct for vm in beat.vms) / 100
        waited = sum(max(0.0, vm.ready_pct - vm.throttled_pct) * max(1, len(vm.vcpus)) for vm in beat.vms) / 100
        past_us = now_us - self.at_us
        if not self.at_us or past_us > GAP_US_MAX:
            self.demand, self.waited, self.steal_pct = demand, waited, beat.steal_pct
        elif past_us > 0:
            part = 1 - exp(-past_us / TIME_US)
            self.demand += (demand - self.demand) * part
            self.waited += (waited - self.waited) * part
            self.steal_pct += (beat.steal_pct - self.steal_pct) * part
        self.at_us = now_us

    def told(self) -> tuple[float, int, int]:
        """Demand in pCPUs; of it waited, in percent; stolen, in percent. All in steps."""
        ready_pct = 100 * self.waited / self.demand if self.demand > 0 else 0.0
        return (
            round(self.demand * DEMAND_STEPS) / DEMAND_STEPS,
            min(100, round(ready_pct / READY_STEP_PCT) * READY_STEP_PCT),
            min(STEAL_PCT_MAX, round(self.steal_pct / READY_STEP_PCT) * READY_STEP_PCT),
        )
