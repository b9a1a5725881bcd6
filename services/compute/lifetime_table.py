"""How long VMs live, by what can be known of one when it starts; learnt from ends that this platform saw, and from nothing else.

A VM belongs to one class for its life. Classes without an owner: how many VMs its owner started just before it (a burst ends
otherwise than a single VM), its size in vCPUs, and the hour of the day. An owner who has seen enough VMs of a size end has a
class of its own. Ends are counted by age; lifetime_outlook.py makes survival out of them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

AGES_S = (0, *(round(60 * 1.42**n) for n in range(31)))
"""Lower edges of the age bins: one minute to a month, each 1.42 times the one before."""

BURST_US = 300_000_000
"""A start belongs to its owner's burst when it comes no later than this after the one before."""
BURSTS, SIZES, BLOCKS = 10, 8, 6
"""Levels of: starts of the burst so far (by powers of two), vCPUs (likewise), the time of day (four hours each)."""

SHARED = BURSTS * SIZES * BLOCKS
"""Classes without an owner have the numbers below."""

OWN_MAX = 1024
"""Classes of owners. The one that was not used for longest, and has no VM now, makes room for a new one."""
KINDS = SHARED + OWN_MAX
OWN_ENDS_MIN = 30
"""Ends seen before an owner's class is used."""
ENDS_MAX = 4096
"""Ends counted of one class; beyond, all its counts are halved, so that what is new outweighs what is old."""
BURSTS_MAX = 4096
"""Owners whose current burst is known."""

_BLOCK_US = 86_400_000_000 // BLOCKS


def level(count: int, levels: int) -> int:
    """By powers of two: 1, 2-3, 4-7, …"""
    found = count.bit_length() - 1
    return 0 if found < 0 else found if found < levels else levels - 1


def age_bin(age_us: int) -> int:
    """The bin of an age; negative ages are 0."""
    return bisect_right(AGES_S, max(0, age_us) // 1_000_000) - 1


@dataclass(slots=True)
class Own:
    """An owner's class. number: SHARED and up; alive: VMs of it; ends: by age."""

    number: int
    shared: int
    alive: int = 0
    total: int = 0
    ends: list[int] = field(default_factory=lambda: [0] * len(AGES_S))


@dataclass(slots=True)
class Burst:
    """latest_us: the owner's last start; count: starts of this burst so far."""

    latest_us: int
    count: int


class Life(msgspec.Struct, gc=False):
    """A VM that has a node. kind: the class by which it is judged, shared: the one without its owner, own: its owner's (-1: none),
    key: whose that is. since_us: of the choice of its node, and once it `ran`, since when."""

    kind: int
    shared: int
    key: str
    since_us: int
    own: int = -1
    ran: bool = False


@dataclass(slots=True)
class LifetimeTable:
    """shared: class → ends by age. own: owner and size → the owner's class, the least lately used first. ends: all ever counted."""

    shared: dict[int, list[int]] = field(default_factory=dict)
    own: dict[str, Own] = field(default_factory=dict)
    bursts: dict[str, Burst] = field(default_factory=dict)
    ends: int = 0

    def kind(self, owner: str, vcpus: int, now_us: int) -> Life:
        """What a VM that this owner starts now would be. Changes nothing."""
        burst = self.bursts.get(owner)
        before = burst.count if burst and now_us - burst.latest_us <= BURST_US else 0
        size = level(vcpus, SIZES)
        block = now_us // _BLOCK_US % BLOCKS
        shared = (level(before + 1, BURSTS) * SIZES + size) * BLOCKS + block
        key = _key(owner, size)
        own = self.own.get(key)
        return Life(own.number if own and own.total >= OWN_ENDS_MIN else shared, shared, key, now_us)

    def began(self, owner: str, life: Life, now_us: int) -> None:
        """It has a node."""
        burst = self.bursts.pop(owner, None)
        if burst is None or now_us - burst.latest_us > BURST_US:
            burst = Burst(now_us, 0)
        burst.latest_us, burst.count = now_us, burst.count + 1
        self.bursts[owner] = burst
        if len(self.bursts) > BURSTS_MAX:
            del self.bursts[next(iter(self.bursts))]
        own = self.own.pop(life.key, None) or self._new(life)
        if own is not None:
            own.alive += 1
            life.own = own.number
            self.own[life.key] = own

    def ended(self, life: Life, now_us: int) -> None:
        """It has no node any more. Counts its end if it ever ran."""
        own = self.own.get(life.key)
        if own is not None and own.number != life.own:
            own = None  # its class was given to another in the meantime
        if own is not None:
            own.alive -= 1
        if not life.ran:
            return
        bin = age_bin(now_us - life.since_us)
        self.ends += 1
        shared = self.shared.get(life.shared)
        if shared is None:
            shared = self.shared[life.shared] = [0] * len(AGES_S)
        _count(shared, bin)
        if own is not None:
            own.total += 1
            _count(own.ends, bin)

    def _new(self, life: Life) -> Own | None:
        """A class for an owner not known yet; None where all are in use."""
        if len(self.own) < OWN_MAX:
            return Own(SHARED + len(self.own), life.shared)
        for key, own in self.own.items():
            if not own.alive:
                del self.own[key]
                return Own(own.number, life.shared)
        return None


@lru_cache(OWN_MAX)
def _key(owner: str, size: int) -> str:
    """Made once: each VM has one."""
    return f"{owner}/{size}"


def _count(ends: list[int], bin: int) -> None:
    ends[bin] += 1
    if sum(ends) > ENDS_MAX:
        ends[:] = [n // 2 for n in ends]
