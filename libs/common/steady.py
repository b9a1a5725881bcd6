"""A process's time of day as its decisions go by it: it never goes back, and is never before what the log holds.

Clocks are set: by hand, by a time server that was away, by a machine that slept. A service compares its own time with times in the
log, which other processes wrote: were its clock two hours late, nothing that is to wait a minute would be over for two hours. So it
takes what it heard of the log for its time where its clock is behind, and from there lets SLEW less pass than its clock does, until
that has caught up. Forward it is as its clock is.
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.clock import Clock

SLEW = 10
"""a tenth: spans take so much longer while it is ahead of its clock"""


@dataclass(slots=True)
class Steady:
    """All in microseconds since the epoch; 0: nothing was read or heard yet."""

    shown_us: int = 0
    clock_us: int = 0

    def at(self, clock_us: int) -> int:
        """The time when the process's clock shows this."""
        passed = clock_us - self.clock_us if self.clock_us else 0
        self.clock_us = clock_us
        shown = self.shown_us + passed - passed // SLEW if passed > 0 else self.shown_us
        self.shown_us = max(clock_us, shown)
        return self.shown_us

    def heard(self, at_us: int) -> None:
        """Something in the log was written at that time."""
        self.shown_us = max(self.shown_us, at_us)


class SteadyClock:
    """A clock whose time of day is steady."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steady = Steady()

    def now_us(self) -> int:
        return self._steady.at(self._clock.now_us())

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def new_id(self) -> str:
        return self._clock.new_id()

    def heard(self, at_us: int) -> None:
        """See Steady."""
        self._steady.heard(at_us)
