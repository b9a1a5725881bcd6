"""The figures of a lease (docs/ha.md), in microseconds: the only place where they stand. Standard library only.

    lease_us L   a renewal counts so long, from the node's own clock when it sent the request or began the write
    pause_us P   so long without a renewal: what is guarded is paused
    kill_us K    what killing may take: it begins at L - K
    beat_us H    between two requests, and between two writes
    sign_us G    a grantor signs nothing later than this after it *sent* its last successful check of its own lock
    learn_us     a node that woke past its end has so long to learn the generations before it kills
The two clocks drift apart by DRIFT_PCT at most; MARGIN_US is for what neither of them counts (rounding, scheduling).
"""

from __future__ import annotations

from typing import NamedTuple

DRIFT_PCT = 1
MARGIN_US = 500_000


class Times(NamedTuple):
    """One profile."""

    name: str
    lease_us: int
    pause_us: int
    kill_us: int
    beat_us: int
    sign_us: int
    learn_us: int

    @property
    def kill_at_us(self) -> int:
        """After the last renewal: killing begins."""
        return self.lease_us - self.kill_us

    @property
    def waited_us(self) -> int:
        """After the last sign of life, by the observer's clock: the lease is spent, however the node's clock drifts (DRIFT_PCT)."""
        return drifted_us(self.lease_us) + MARGIN_US

    @property
    def successor_us(self) -> int:
        """From its own start a new grantor counts no lease as spent before: another may have signed one G after its last check."""
        return self.sign_us + self.waited_us

    @property
    def suspect_us(self) -> int:
        """Two beats were missed, and another half to be late in."""
        return self.beat_us * 5 // 2


def drifted_us(span_us: int) -> int:
    """What a span of another's clock may be at most by one's own (rounded up)."""
    return span_us + -(-span_us * DRIFT_PCT // 100)


FAST = Times("fast", 5_000_000, 3_000_000, 1_000_000, 1_000_000, 1_000_000, 5_000_000)
TOLERANT = Times("tolerant", 30_000_000, 20_000_000, 3_000_000, 1_000_000, 1_000_000, 5_000_000)


def times(tolerant: bool) -> Times:
    return TOLERANT if tolerant else FAST


def shrunk(profile: Times, lease_us: int) -> Times:
    """The profile for a lease of that length: never a longer one. 0: as it is."""
    if not 0 < lease_us < profile.lease_us:
        return profile
    return Times(profile.name, *(value * lease_us // profile.lease_us for value in profile[1:]))


def scaled(profile: Times, percent: int) -> Times:
    """The same profile in other time, for tests and benchmarks of the protocol itself: never in a cluster."""
    return Times(f"{profile.name}@{percent}%", *(value * percent // 100 for value in profile[1:]))
