"""The world's time and its network: a heap of things to come, and messages that may be late, lost, said twice or cut off."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

type Thunk = Callable[[], None]

START_US = 1_700_000_000_000_000


@dataclass(slots=True)
class Weather:
    """How the network behaves. delay: uniform between the two, microseconds; late: chance of a further delay up to late_us (far
    beyond every timeout); lost and twice: chances per message. commit: from an append to its commit, and from there to its
    being heard of."""

    delay_us: tuple[int, int] = (200, 2_000)
    commit_us: tuple[int, int] = (300, 3_000)
    late: float = 0.0
    late_us: int = 8_000_000
    lost: float = 0.0
    twice: float = 0.0


@dataclass(slots=True)
class Net:
    random: Random
    now_us: int = START_US
    weather: Weather = field(default_factory=Weather)
    cut: set[str] = field(default_factory=set)
    """names that hear and say nothing"""
    steps: int = 0
    _heap: list[tuple[int, int, Thunk]] = field(default_factory=list)
    _serial: int = 0

    def after(self, delay_us: int, thunk: Thunk) -> None:
        """Something local: it happens, at its time."""
        self._serial += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._serial, thunk))

    def send(self, source: str, target: str, thunk: Thunk) -> None:
        """A message: perhaps."""
        w, r = self.weather, self.random
        for _ in range(2 if r.random() < w.twice else 1):
            if r.random() < w.lost:
                continue
            delay_us = r.randint(*w.delay_us) + (r.randint(0, w.late_us) if r.random() < w.late else 0)
            self.after(delay_us, lambda: self._deliver(source, target, thunk))

    def _deliver(self, source: str, target: str, thunk: Thunk) -> None:
        if source not in self.cut and target not in self.cut:
            thunk()

    def next_us(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        at_us, _, thunk = heapq.heappop(self._heap)
        self.now_us = max(self.now_us, at_us)
        self.steps += 1
        thunk()
