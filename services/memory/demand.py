"""What a VM, or all VMs of a host, will need at most in the next half hour, from what they needed in the past two. Pure.

    max(mean + 5 sigma, 99th percentile) + 2 % of nominal memory, and no more than nominal memory

for one VM over its own window. One that was seen for less than GROWN_US is expected to need more: the highest that was seen, and a
part of what it has beyond, at first all of it:

    highest + (nominal - highest) x (1 - age / GROWN_US)

For a host mean and sigma are of the sum (peaks of different VMs do not meet), the percentile is
the sum of the VMs' own. Samples are the peaks of intervals of five minutes, so a window holds the highest of what it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt

INTERVAL_US = 300_000_000
WINDOW_MAX = 24
"""intervals that are kept: two hours"""
KNOWN_MIN = 3
"""with fewer intervals a VM is not in the sum of a host"""
GROWN_US = 900_000_000
"""from this age on a VM's own past speaks for it alone"""
SIGMAS = 5.0
PERCENTILE = 0.99
MARGIN = 0.02


@dataclass(slots=True)
class Window:
    """A VM's peaks of the past intervals, oldest first. interval: the number of the last one. heard_us: when it was last heard;
    age_us: for how long it was, where a silence counts as one interval at most."""

    interval: int = 0
    peaks: list[float] = field(default_factory=list)
    heard_us: int = 0
    age_us: int = 0

    def note(self, at_us: int, mib: float) -> None:
        """An interval in which nothing was heard repeats the one before."""
        interval = at_us // INTERVAL_US
        self.age_us += max(0, min(at_us - self.heard_us, INTERVAL_US)) if self.peaks else 0
        self.heard_us = at_us
        if not self.peaks or interval < self.interval or interval - self.interval > WINDOW_MAX:
            self.peaks, self.interval, self.age_us = [mib], interval, 0
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


def of_vm(window: Window, nominal_mib: int) -> int:
    """What one VM will need at most: all it has, where it was never heard."""
    peaks = window.peaks
    if not peaks:
        return nominal_mib
    expected = max(n_sigma(peaks), percentile(peaks, PERCENTILE)) + MARGIN * nominal_mib
    return min(nominal_mib, max(round(expected), _of_young(window, nominal_mib)))


def _of_young(window: Window, nominal_mib: int) -> int:
    """0 for one that is grown."""
    left_us, highest = GROWN_US - window.age_us, ceil(max(window.peaks))
    return highest + -(-(nominal_mib - highest) * left_us // GROWN_US) if left_us > 0 else 0


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
