"""Of the back-test: how good the estimate of one VM is while little of it was seen. Every VM of the trace is taken to have begun at
many instants; at each sample of its first half hour the production estimate is held against the most it needed in the next one."""

from __future__ import annotations

from dataclasses import dataclass

from services.memory.demand import GROWN_US, Window, of_vm

AHEAD = 6
"""samples that are looked ahead: half an hour at five minutes each"""
FOLLOWED = 6
"""samples of a life that are looked at"""
EVERY = 24
"""a life begins at every so many samples"""


@dataclass(slots=True)
class Estimates:
    """short: of how many the VM needed more than was estimated; by how much in all, and how much less than its memory was estimated
    in all, in parts of the VMs' memory."""

    count: int = 0
    short: int = 0
    lacked: float = 0.0
    spare: float = 0.0

    def note(self, estimate_mib: int, needed_mib: float, nominal_mib: int) -> None:
        self.count += 1
        self.short += needed_mib > estimate_mib
        self.lacked += max(0.0, needed_mib - estimate_mib) / nominal_mib
        self.spare += (nominal_mib - estimate_mib) / nominal_mib

    def pct(self, what: float) -> float:
        return round(100 * what / max(1, self.count), 3)


def estimates(trace: list[list[tuple[int, float]]], nominal_mib: int) -> tuple[Estimates, Estimates]:
    """(of the young, of those grown up)."""
    young, grown = Estimates(), Estimates()
    for series in trace:
        needs = [mem_pct * nominal_mib / 100 for _, mem_pct in series]
        for begin in range(0, len(series) - FOLLOWED - AHEAD, EVERY):
            window = Window()
            for n in range(begin, begin + FOLLOWED):
                window.note(series[n][0] * 1_000_000, needs[n])
                tally = young if window.age_us < GROWN_US else grown
                tally.note(of_vm(window, nominal_mib), max(needs[n + 1 : n + 1 + AHEAD]), nominal_mib)
    return young, grown
