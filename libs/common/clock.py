"""Time and ids: the only door to both. Models never come here; the edges hand in what they need as values.

`SystemClock` is the real one; `ManualClock` is its twin for tests and the world: it moves only when told to, and its ids
follow from its seed, so that two runs with one seed are the same run.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Protocol
from uuid import UUID


class Clock(Protocol):
    def now_us(self) -> int:
        """Wall clock: microseconds since the epoch, UTC. May jump; never measure a duration with it."""
        ...

    def monotonic(self) -> float:
        """Seconds since some instant; never goes back."""
        ...

    def new_id(self) -> str:
        """A UUID (version 7 layout: sorts by time of making), as 36 lower-case characters."""
        ...


def uuid7(ms: int, chance: bytes) -> str:
    """A version 7 UUID from milliseconds since the epoch and ten bytes of chance."""
    if len(chance) != 10:
        raise ValueError(f"ten bytes of chance are needed, not {len(chance)}")
    bits = (ms & ((1 << 48) - 1)) << 80 | int.from_bytes(chance, "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=bits))


class SystemClock:
    """The machine's clock and the kernel's randomness."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> str:
        return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


class ManualClock:
    """Stands still until `advance` is called. Ids follow from `seed` and how many were made before."""

    def __init__(self, now_us: int = 1_700_000_000_000_000, seed: int = 0) -> None:
        self._start_us = now_us
        self._now_us = now_us
        self._seed = seed
        self._made = 0

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return (self._now_us - self._start_us) / 1e6

    def new_id(self) -> str:
        self._made += 1
        chance = hashlib.blake2b(f"{self._seed}:{self._made}".encode(), digest_size=10).digest()
        return uuid7(self._now_us // 1000, chance)

    def advance(self, seconds: float) -> None:
        """Raises ValueError for a step back: time does not."""
        if seconds < 0:
            raise ValueError(f"a clock goes forward only, not by {seconds} s")
        self._now_us += round(seconds * 1_000_000)
