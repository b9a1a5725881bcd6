"""Clocks that are not the world's: each node's and each process's own.

    clock = Clock(world.net, ppm=5000)      half a percent fast
    clock.boot_us                           since its machine was switched on: drifts, never steps, counts while it sleeps
    clock.wall_us                           what it takes the time of day to be: drifts, and steps when somebody sets it
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.world.net import Net

MILLION = 1_000_000


@dataclass(slots=True)
class Clock:
    """ppm: how much faster than the world's it goes, in millionths; off_us: how far its time of day is from the world's."""

    net: Net
    ppm: int = 0
    off_us: int = 0
    since_us: int = 0
    """when it was switched on, or its pace was changed"""
    shown_us: int = 0
    """what it showed then"""

    def __post_init__(self) -> None:
        self.since_us = self.since_us or self.net.now_us

    @property
    def boot_us(self) -> int:
        passed = self.net.now_us - self.since_us
        return self.shown_us + passed + passed * self.ppm // MILLION

    @property
    def wall_us(self) -> int:
        return self.net.now_us + self.off_us

    def drift(self, ppm: int) -> None:
        """From now on."""
        self.since_us, self.shown_us = self.net.now_us, self.boot_us
        self.ppm = ppm

    def restart(self) -> None:
        """Its machine was switched on again."""
        self.since_us, self.shown_us = self.net.now_us, 0

    def world_us(self, span_us: int) -> int:
        """How long a span of its own takes by the world's (rounded up, so that its own is over then)."""
        return -(-span_us * MILLION // (MILLION + self.ppm)) if self.ppm else span_us
