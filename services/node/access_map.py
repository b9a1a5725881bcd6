"""What the guest of a recovered disk touched first, and how that is brought home first the next time. Pure.

    recorded    while a guest runs on a backup, QEMU keeps in the disk's own file what it reads (copy on read) and writes. At the
                end of each round, what lies there and was copied neither by the stream job nor by readers was touched by the guest
    kept        round by round, so that what was touched early comes early; positions only, nothing of what is there
    used        at the next recovery from any backup of that VM. One that is wrong changes nothing but the order

Positions and lengths are in bytes, of the disk as its guest sees it; a stretch is (start, length).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

type Stretch = tuple[int, int]
type _Units = Annotated[int, msgspec.Meta(ge=0)]

MIB = 1024 * 1024
ROUNDS_S = (0.5, 1.0, 1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 20.0, 30.0, 45.0, 60.0, 90.0)
"""ends of the rounds, counted from when the copy begins: a guest has booted by then, and each look at all of a large disk costs"""
BYTES_MAX = 256 * MIB
"""of one disk: what many a guest needs to boot and to begin to serve; more would come home in time by itself"""
STRETCHES_MAX = 2048
"""of one disk: some 40 KiB of a file"""
GAP = 256 * 1024
"""two stretches so near to each other are one: to fetch what lies between costs less than a request more"""
ENOUGH = 0.5
"""of the older map's bytes: a drill that saw less may not have booted at all, and does not take its place"""
_UNIT = 4096


class AccessMap(msgspec.Struct, frozen=True):
    """of: the file of the disk that was looked at last; rounds: stretches in each, in units of 4 KiB."""

    of: str = ""
    rounds: tuple[tuple[tuple[_Units, _Units], ...], ...] = ()

    def stretches(self) -> list[list[Stretch]]:
        """By round, in bytes."""
        return [[(start * _UNIT, length * _UNIT) for start, length in each] for each in self.rounds]

    def in_order(self, piece: int, size: int) -> list[Stretch]:
        """What is to be fetched, the first first; none longer than `piece` or beyond a disk of that size."""
        pieces: list[Stretch] = []
        for start, length in (stretch for each in self.stretches() for stretch in each):
            end = min(start + length, size)
            pieces += ((at, min(piece, end - at)) for at in range(start, end, piece))
        return pieces

    @property
    def bytes(self) -> int:
        return sum(length for each in self.rounds for _, length in each) * _UNIT


def learnt(older: AccessMap, of: str, rounds: Sequence[Sequence[Stretch]], *, alone: bool) -> AccessMap:
    """With what was seen in each round. alone: nothing was fetched by the older map meanwhile, so that it takes that one's place if
    it saw enough; else both are one, round by round."""
    fresh = made(of, rounds)
    if alone and fresh.bytes >= ENOUGH * older.bytes:
        return fresh
    pairs = [older.stretches(), fresh.stretches()]
    longest = max(len(each) for each in pairs)
    return made(of, [[s for each in pairs for s in (each[n] if n < len(each) else ())] for n in range(longest)])


def made(of: str, rounds: Sequence[Sequence[Stretch]]) -> AccessMap:
    """Each stretch once, in the first round that has it, within the bounds."""
    kept: list[tuple[Stretch, ...]] = []
    known: list[Stretch] = []
    bytes, count = 0, 0
    for each in rounds:
        fresh: list[Stretch] = []
        for start, length in minus(joined(each, GAP), known):
            room = min(length, BYTES_MAX - bytes)
            if count == STRETCHES_MAX or room < _UNIT:
                break
            fresh.append((start // _UNIT, room // _UNIT))
            bytes, count = bytes + room, count + 1
        kept.append(tuple(fresh))
        known = joined((*known, *((start * _UNIT, length * _UNIT) for start, length in fresh)))
    while kept and not kept[-1]:
        kept.pop()
    return AccessMap(of, tuple(kept))


def joined(stretches: Iterable[Stretch], gap: int = 0) -> list[Stretch]:
    """In order, each byte once; those that have no more than `gap` between them are one."""
    found: list[Stretch] = []
    for start, length in sorted(stretches):
        if found and start <= sum(found[-1]) + gap:
            at, before = found[-1]
            found[-1] = (at, max(before, start + length - at))
        else:
            found.append((start, length))
    return found


def minus(stretches: Iterable[Stretch], others: Iterable[Stretch]) -> list[Stretch]:
    """What of the first is in none of the others."""
    left: list[Stretch] = []
    away = joined(others)
    first = 0
    for start, length in joined(stretches):
        here, end = start, start + length
        while first < len(away) and sum(away[first]) <= here:
            first += 1
        next = first
        while next < len(away) and away[next][0] < end:
            at, size = away[next]
            if at > here:
                left.append((here, at - here))
            here, next = at + size, next + 1
        if here < end:
            left.append((here, end - here))
    return left
