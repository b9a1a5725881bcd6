"""The map of what a guest touches first: what is kept of it, in which order, within which bounds."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec

from services.node.access_map import BYTES_MAX, GAP, MIB, STRETCHES_MAX, AccessMap, Stretch, joined, learnt, made, minus

K64 = 64 * 1024


def test_what_was_touched_early_is_fetched_early_and_once() -> None:
    found = made("d", [[(8 * MIB, MIB)], [(0, MIB), (8 * MIB, 2 * MIB)], [], [(4 * MIB, K64)], []])
    assert found.stretches() == [[(8 * MIB, MIB)], [(0, MIB), (9 * MIB, MIB)], [], [(4 * MIB, K64)]]
    assert found.in_order(MIB, 64 * MIB) == [(8 * MIB, MIB), (0, MIB), (9 * MIB, MIB), (4 * MIB, K64)]
    assert found.in_order(MIB // 2, 9 * MIB)[:3] == [(8 * MIB, MIB // 2), (8 * MIB + MIB // 2, MIB // 2), (0, MIB // 2)]
    assert found.in_order(MIB, 9 * MIB)[-1] == (4 * MIB, K64), "what lies beyond a smaller disk is left out"
    assert (MIB, 8 * MIB + 4096) not in found.in_order(MIB, 8 * MIB + 4096)


def test_near_ones_are_one() -> None:
    near = [(0, K64), (K64 + GAP, K64), (3 * MIB, K64)]
    assert made("d", [near]).stretches() == [[(0, 2 * K64 + GAP), (3 * MIB, K64)]]


def test_it_is_bounded_and_the_early_ones_stay() -> None:
    many = [(n * MIB, K64) for n in range(STRETCHES_MAX + 10)]
    found = made("d", [[(9000 * MIB, K64)], many])
    assert sum(map(len, found.rounds)) == STRETCHES_MAX and found.stretches()[0] == [(9000 * MIB, K64)]
    assert len(msgspec.json.encode(found)) < 64 * 1024
    large = made("d", [[(0, BYTES_MAX - MIB)], [(4 * BYTES_MAX, 8 * MIB), (8 * BYTES_MAX, MIB)]])
    assert large.bytes == BYTES_MAX and large.stretches()[1] == [(4 * BYTES_MAX, MIB)]


def test_a_drill_takes_the_place_of_the_older_where_it_saw_enough() -> None:
    older = made("old", [[(0, 4 * MIB)], [(64 * MIB, 4 * MIB)]])
    seen: list[list[Stretch]] = [[(16 * MIB, 5 * MIB)]]
    assert learnt(older, "new", seen, alone=True) == made("new", seen)
    assert learnt(AccessMap(), "new", seen, alone=True) == made("new", seen)
    poor: list[list[Stretch]] = [[(16 * MIB, MIB)]]
    assert learnt(older, "new", poor, alone=True).stretches() == [[(0, 4 * MIB), (16 * MIB, MIB)], [(64 * MIB, 4 * MIB)]]


def test_what_a_recovery_by_the_map_missed_is_added_to_its_round() -> None:
    older = made("old", [[(0, 4 * MIB)]])
    found = learnt(older, "new", [[], [(32 * MIB, 64 * MIB)]], alone=False)
    assert found.of == "new" and found.stretches() == [[(0, 4 * MIB)], [(32 * MIB, 64 * MIB)]]


def test_stretches_are_as_sets_of_blocks() -> None:
    chance = random.Random(7)
    for _ in range(300):
        one, two = _any(chance), _any(chance)
        assert _blocks(minus(one, two)) == _blocks(one) - _blocks(two)
        assert _blocks(joined((*one, *two))) == _blocks(one) | _blocks(two)
        found = joined(one)
        assert all(sum(a) < b[0] for a, b in pairwise(found))
        rounds = made("d", [[(s * 4096, n * 4096) for s, n in each] for each in (one, two)]).rounds
        assert not any(_blocks(a) & _blocks(b) for a, b in pairwise(rounds))


def _any(chance: random.Random) -> list[Stretch]:
    return [(chance.randrange(60), chance.randrange(1, 9)) for _ in range(chance.randrange(8))]


def _blocks(stretches: list[Stretch] | tuple[Stretch, ...]) -> set[int]:
    return {block for start, length in stretches for block in range(start, start + length)}
