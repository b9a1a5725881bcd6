"""The world's time and its network: a heap of things to come, and messages that may be late, lost, said twice or cut off.

Names on the network: `control` (all services), `bus`, `user`, each node's. A name in `cut` hears and says nothing; a pair
(source, target) in `one_way` loses what goes that way alone; target may be one process of the control plane.

Each thing to come may have an owner, the process that does it (`ha`, `agent:n1`): while that is in `paused` (stopped, or in a
collection of garbage that does not end) what is its own waits, messages to it too, and happens in its order when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Protocol

type Thunk = Callable[[], None]
type _Due = tuple[int, int, str, str, str, Thunk]

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


class Watched(Protocol):
    """Has something changed that the invariants are about?"""

    touched: bool
    news: bool
    full: bool

    def step(self) -> None: ...


@dataclass(slots=True)
class Net:
    """steps: things that have happened; deliveries: those of them that were messages, and came to somebody."""

    random: Random
    now_us: int = START_US
    weather: Weather = field(default_factory=Weather)
    cut: set[str] = field(default_factory=set)
    """names that hear and say nothing"""
    one_way: set[tuple[str, str]] = field(default_factory=set)
    paused: dict[str, list[_Due]] = field(default_factory=dict)
    steps: int = 0
    deliveries: int = 0
    _heap: list[_Due] = field(default_factory=list)
    _serial: int = 0

    def after(self, delay_us: int, thunk: Thunk, owner: str = "") -> None:
        """Something local: it happens, at its time."""
        self._serial += 1
        heappush(self._heap, (self.now_us + delay_us, self._serial, "", "", owner, thunk))

    def between(self, least_us: int, most_us: int) -> int:
        """By chance, both included."""
        return least_us + int(self.random.random() * (most_us - least_us + 1))

    def send(self, source: str, target: str, thunk: Thunk, owner: str = "") -> None:
        """A message: perhaps."""
        w, chance = self.weather, self.random.random
        least_us, most_us = w.delay_us
        for _ in range(2 if w.twice and chance() < w.twice else 1):
            if w.lost and chance() < w.lost:
                continue
            at_us = self.now_us + least_us + int(chance() * (most_us - least_us + 1))
            if w.late and chance() < w.late:
                at_us += self.between(0, w.late_us)
            self._serial += 1
            heappush(self._heap, (at_us, self._serial, source, target, owner, thunk))

    def pause(self, owner: str) -> None:
        self.paused.setdefault(owner, [])

    def resume(self, owner: str) -> None:
        """What waited happens now, one after the other."""
        for _, _, source, target, _, thunk in self.paused.pop(owner, ()):
            self._serial += 1
            heappush(self._heap, (self.now_us, self._serial, source and "here", target, owner, thunk))

    def run(self, end_us: int, watched: Watched) -> None:
        """What is due until then happens, one after the other; after each is looked at what it has changed."""
        heap, paused, cut, one_way = self._heap, self.paused, self.cut, self.one_way
        while heap and heap[0][0] <= end_us:
            due = at_us, _, source, target, owner, thunk = heappop(heap)
            self.now_us = max(self.now_us, at_us)
            self.steps += 1
            if source and (cut or one_way) and self.lost(source, target, owner):
                continue
            if owner in paused:
                paused[owner].append(due)
                continue
            if source:
                self.deliveries += 1
            thunk()
            if watched.touched or watched.news or watched.full:
                watched.step()
        self.now_us = max(self.now_us, end_us)

    def lost(self, source: str, target: str, owner: str) -> bool:
        """Whether a message is that would arrive now. A way may be cut to one process of the control plane alone."""
        if source == "here":
            return False
        one_way = self.one_way
        gone = one_way and ((source, target) in one_way or (source, owner) in one_way)
        return source in self.cut or target in self.cut or bool(gone)
