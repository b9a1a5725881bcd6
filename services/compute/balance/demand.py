"""A VM's CPU demand as the rebalancer counts it: not of this second, but as it has been for a while.

A move takes a minute and is meant for hours; what lasts shorter than that is no reason for one. Each value counts by the time
since the one before, so that missed or doubled heartbeats change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

TIME_US = 900_000_000
"""After so long a lasting change counts by 63 %, after twice that by 86 %."""

GAP_US_MAX = 300_000_000
"""A VM that was not heard for longer begins anew."""


@dataclass(slots=True)
class Smoothed:
    """pcpus: mean of what was heard, weighted by age."""

    pcpus: float
    at_us: int

    def hear(self, pcpus: float, at_us: int) -> None:
        past_us = at_us - self.at_us
        if past_us <= 0:
            return
        if past_us > GAP_US_MAX:
            self.pcpus = pcpus
        else:
            self.pcpus += (pcpus - self.pcpus) * (1 - exp(-past_us / TIME_US))
        self.at_us = at_us
