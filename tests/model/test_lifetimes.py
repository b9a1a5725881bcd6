"""Lifetimes: classes, survival with those that still run, and when nodes will empty."""

from __future__ import annotations

import random

import numpy as np
import pytest

from services.compute.lifetime_outlook import AGE_US, ENDS_MIN, HORIZONS_S, Outlook, survival
from services.compute.lifetime_table import (
    AGES_S,
    BURST_US,
    ENDS_MAX,
    KINDS,
    OWN_ENDS_MIN,
    OWN_MAX,
    SHARED,
    Life,
    LifetimeTable,
    age_bin,
    level,
)
from services.compute.policy import CHANCE

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


def lived(table: LifetimeTable, owner: str, at_us: int, lasts_us: int, vcpus: int = 1) -> Life:
    life = table.kind(owner, vcpus, at_us)
    table.began(owner, life, at_us)
    life.ran = True
    table.ended(life, at_us + lasts_us)
    return life


def test_levels_go_by_powers_of_two() -> None:
    assert [level(n, 4) for n in (0, 1, 2, 3, 4, 8, 1000)] == [0, 0, 1, 1, 2, 3, 3]


def test_age_bins_hold_their_lower_edge() -> None:
    assert [age_bin(edge * 1_000_000) for edge in AGES_S] == list(range(len(AGES_S)))
    assert age_bin(-5) == 0 and age_bin(10**18) == len(AGES_S) - 1


def test_a_burst_is_another_class_than_a_single_vm() -> None:
    table = LifetimeTable()
    kinds = []
    for _ in range(4):
        life = table.kind("ann", 1, 0)
        table.began("ann", life, 0)
        kinds.append(life.kind)
    assert kinds[0] != kinds[1] == kinds[2] != kinds[3]
    assert table.kind("bob", 1, 0).kind == kinds[0] != table.kind("bob", 8, 0).kind
    assert table.kind("ann", 1, BURST_US + 1).kind == kinds[0], "the burst is over"


def test_an_owner_with_a_past_has_a_class_of_its_own() -> None:
    table = LifetimeTable()
    for n in range(OWN_ENDS_MIN):
        assert lived(table, "ann", n * DAY_US, HOUR_US).kind < SHARED
    assert table.kind("ann", 1, 99 * DAY_US).kind >= SHARED > table.kind("ann", 4, 99 * DAY_US).kind


def test_a_start_that_came_to_nothing_is_no_end() -> None:
    table = LifetimeTable()
    life = table.kind("ann", 1, 0)
    table.began("ann", life, 0)
    table.ended(life, HOUR_US)
    assert table.ends == 0 and not table.shared and not any(table.own["ann/0"].ends)


def test_what_is_kept_is_bounded() -> None:
    table = LifetimeTable()
    alive = table.kind("first", 1, 0)
    table.began("first", alive, 0)
    for n in range(OWN_MAX + 50):
        lived(table, f"o{n}", n, 1)
    assert len(table.own) == OWN_MAX and "first/0" in table.own, "one that has a VM keeps its class"
    assert len({own.number for own in table.own.values()}) == OWN_MAX
    for _ in range(ENDS_MAX + 10):
        lived(table, "last", 0, 1)
    assert sum(table.own["last/0"].ends) <= ENDS_MAX


def outlook_of(lasts_us: int, count: int = 400) -> tuple[Outlook, LifetimeTable]:
    """Learnt from VMs that lived about so long; a tenth ended at once."""
    rnd, table = random.Random(7), LifetimeTable()
    for n in range(count):
        lived(table, f"o{n}", 0, round(lasts_us * rnd.uniform(0.7, 1.4)) if n % 10 else 1)
    outlook = Outlook()
    outlook.learn(table, HOUR_US)
    return outlook, table


def test_nothing_is_expected_before_enough_was_seen() -> None:
    outlook, table = outlook_of(HOUR_US, ENDS_MIN - 1)
    life = table.kind("a", 1, 0)
    outlook.add("v", "n1", life, 0)
    assert outlook.lasts(life.kind) == () and outlook.ends("n1") == ()


def test_what_has_lasted_is_expected_to_last() -> None:
    """Half of the first hour's chance to end is over once it is past."""
    outlook, table = outlook_of(4 * HOUR_US)
    life = table.kind("a", 1, 0)
    outlook.add("v", "n1", life, 0)
    young = outlook.ends("n1")
    outlook.age(3 * HOUR_US + AGE_US)
    old = outlook.ends("n1")
    within = int(np.searchsorted(HORIZONS_S, 3 * 3600))
    assert old[within] > young[within] + CHANCE // 4, "three hours from now it is likely to be over"
    assert young[0] > old[0], "but those that end at once have ended"
    assert list(young) == sorted(young) and young[-1] > 0.95 * CHANCE


def test_a_node_ends_with_its_last_vm_and_gives_back_what_it_was_given() -> None:
    outlook, table = outlook_of(2 * HOUR_US)
    life = table.kind("a", 1, 0)
    outlook.add("v1", "n1", life, 0)
    alone = outlook.ends("n1")
    outlook.add("v2", "n1", life, 0)
    both = outlook.ends("n1")
    assert all(b <= a for a, b in zip(alone, both, strict=True)) and both != alone
    assert both[5] == pytest.approx(alone[5] ** 2 / CHANCE, rel=0.01)
    outlook.age(HOUR_US)
    outlook.drop("v2")
    outlook.add("v1", "n2", life, HOUR_US)
    assert set(outlook.ends("n1")) == {CHANCE}
    assert outlook.ends("n2") != alone


def test_those_that_still_run_count_for_what_they_lasted() -> None:
    """A hundred ended within the hour, a hundred run for a day: not all VMs end within the hour."""
    table, outlook = LifetimeTable(), Outlook()
    for n in range(100):
        lived(table, f"o{n}", 0, HOUR_US // 2)
    for n in range(100):
        life = table.kind(f"r{n}", 1, 0)
        table.began(f"r{n}", life, 0)
        outlook.add(f"v{n}", "n1", life, 0)
    outlook.age(DAY_US)
    outlook.learn(table, DAY_US)
    lasts = outlook.lasts(table.kind("new", 1, 0).kind)
    day = int(np.searchsorted(HORIZONS_S, 86_400)) - 1
    part = lasts[day] / (4096 * (HORIZONS_S[day] - HORIZONS_S[day - 1]))
    assert 0.4 < part < 0.6


def test_a_class_that_saw_little_is_drawn_to_the_one_above() -> None:
    table = LifetimeTable()
    for n in range(500):
        lived(table, f"o{n}", 0, 10 * HOUR_US)
    one = lived(table, "o", 0, 60_000_000, vcpus=4)
    reached = survival(table, np.zeros((6, 0), np.int64))
    assert reached.shape == (KINDS, len(AGES_S) + 1)
    at_5h = age_bin(5 * HOUR_US)
    assert reached[one.shared][at_5h] > 0.6, "one early end among them does not outweigh five hundred late ones"
    assert (np.diff(reached, axis=1) <= 0).all() and (reached >= 0).all()
