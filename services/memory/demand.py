"""What a VM, or all VMs of a host, will need at most in the next half hour, from what they needed in the past two. Pure.

    max(mean + 5 sigma, 99th percentile) + 2 % of nominal memory, and no more than nominal memory

for one VM over its own window; for a host mean and sigma are of the sum (peaks of different VMs do not meet), the percentile is
the sum of the VMs' own. Samples are the peaks of intervals of five minutes, so a window holds the highest of what it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt

INTERVAL_US = 300_000_000
WINDOW_MAX = 24
"""intervals that are kept: two hours"""
KNOWN_MIN = 3
"""with fewer intervals nothing is predicted"""
SIGMAS = 5.0
PERCENTILE = 0.99
MARGIN = 0.02


@dataclass(slots=True)
class Window:
    """A VM's peaks of the past intervals, oldest first. interval: the number of the last one."""

    interval: int = 0
    peaks: list[float] = field(default_factory=list)

    def note(self, at_us: int, mib: float) -> None:
        """An interval in which nothing was heard repeats the one before."""
        interval = at_us // INTERVAL_US
        if not self.peaks or interval < self.interval or interval - self.interval > WINDOW_MAX:
            self.peaks, self.interval = [mib], interval
        elif interval == self.interval:
            self.peaks[-1] = max(self.peaks[-1], mib)
        else:
            self.peaks += [self.peaks[-1]] * (interval - self.interval - 1) + [mib]
            self.peaks, self.interval = self.peaks[-WINDOW_MAX:], interval

    @property
    def known(self) -> bool:
        return len(self.peaks) >= KNOWN_MIN


def percentile(values: Sequence[float], part: float) -> float:
    """Linear between neighbours. values: at least one."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * part
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def n_sigma(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return mean + SIGMAS * sqrt(sum((v - mean) ** 2 for v in values) / len(values))


def of_vm(peaks: Sequence[float], nominal_mib: int) -> int:
    """What one VM will need at most. peaks: at least one."""
    expected = max(n_sigma(peaks), percentile(peaks, PERCENTILE)) + MARGIN * nominal_mib
    return min(nominal_mib, round(expected))


def of_host(windows: Iterable[tuple[Sequence[float], int]]) -> int:
    """What VMs will need at most together: (peaks, nominal memory) of each, aligned at their ends. A VM that has a shorter past
    counts with its own mean before it."""
    sums = [0.0] * WINDOW_MAX
    longest, own, nominal = 0, 0.0, 0
    for peaks, nominal_mib in windows:
        own += percentile(peaks, PERCENTILE)
        nominal += nominal_mib
        longest = max(longest, len(peaks))
        mean = sum(peaks) / len(peaks)
        for back in range(WINDOW_MAX):
            sums[back] += peaks[-1 - back] if back < len(peaks) else mean
    if not longest:
        return 0
    return min(nominal, round(max(n_sigma(sums[:longest]), own) + MARGIN * nominal))
