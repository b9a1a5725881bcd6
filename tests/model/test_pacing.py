"""How fast data comes home, without QEMU: a storage and a guest of a few lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from services.node.pacing import (
    CREEP,
    FLOOR,
    MIB,
    RAMP_FROM,
    STEP,
    Normal,
    Pace,
    Phase,
    Seen,
    after,
    within,
    worse,
    write_us,
)
from services.node.spread import Spread, tails

TICK_S, BEST = 0.5, 800 * MIB
MS = 1_000_000


def given(pace: Pace, best: float = BEST) -> float:
    """What a storage copies: all it can, or as much as it may."""
    return min(pace.limit, best) if pace.limit else best * (1.25 if pace.everything else 1.0)


def looked(
    pace: Pace, ticks: int, ops_s: float = 0.0, ms: Callable[[float], float] = lambda rate: 1.0, best: float = BEST
) -> list[Pace]:
    """ops_s: of writes, each with a flush; ms: what one takes at that rate."""
    out = []
    for _ in range(ticks):
        rate = given(pace, best)
        writes = round(ops_s * TICK_S)
        took = round(ms(rate / best) * MS) * writes
        pace = after(pace, Seen(TICK_S, 2 * writes, writes, writes, took, took, round(rate * TICK_S)))
        out.append(pace)
    return out


def test_a_guest_that_does_nothing_leaves_everything_to_the_copy() -> None:
    paces = looked(Pace(), 4)
    assert all(p.everything and p.limit == 0 for p in paces)
    assert paces[-1].best == pytest.approx(BEST * 1.25)


def test_what_is_seen_while_it_creeps_says_nothing_of_the_storage() -> None:
    """A limit is kept to in pieces: for a moment that looks like four times as much."""
    pace = Pace()
    for _ in range(6):
        took = Seen(TICK_S, 100, 100, 0, 100 * MS, 0, round(TICK_S * 4 * CREEP))
        pace = after(pace, took)
        if pace.phase is Phase.RAMPING:
            break
    assert pace.phase is Phase.RAMPING and pace.best == 0.0
    paces = looked(pace, 8, ops_s=100)
    assert paces[-1].best == pytest.approx(BEST)


def test_how_much_the_storage_gives_is_tried_out_by_doubling_until_it_gives_no_more() -> None:
    paces = [p for p in looked(Pace(), 14, ops_s=100) if p.phase in (Phase.RAMPING, Phase.WORKING)]
    limits = [p.limit for p in paces if p.phase is Phase.RAMPING]
    assert limits == [RAMP_FROM * 2**n for n in range(5)] and limits[-1] > BEST
    assert Phase.PROBING not in {p.phase for p in paces} and paces[-1].speed == pytest.approx(BEST, rel=0.1)


def test_the_slowest_writes_are_looked_at_too() -> None:
    """On average nothing is felt: one write of fifty takes ten times as long while the copy goes fast."""
    bounds = (100_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000)

    def spread(rate: float, writes: int) -> Spread:
        slow = writes // 50 if rate > 0.5 else 0
        return Spread(bounds, (0, writes - slow, 0, 0, slow, 0, 0))

    def run(told: bool) -> Pace:
        pace = Pace()
        for _ in range(60):
            rate = given(pace)
            seen = Seen(TICK_S, 500, 500, 0, 500 * MS, 0, round(rate * TICK_S), 0, spread(rate / BEST, 500) if told else Spread())
            pace = after(pace, seen)
        return pace

    assert run(told=False).speed > 0.95 * BEST
    assert FLOOR * BEST <= run(told=True).speed <= 0.6 * BEST


def test_a_storage_that_was_busy_when_it_was_tried_out_is_found_to_give_more() -> None:
    slow = looked(Pace(), 14, ops_s=100, best=BEST / 16)[-1]
    assert slow.phase is Phase.WORKING and slow.best < BEST / 10
    assert looked(slow, 120, ops_s=100)[-1].speed > 0.9 * BEST


def test_a_spread_says_what_is_slow() -> None:
    bounds = (100, 200, 400)
    usual, now = Spread(bounds, (90, 10, 0, 0)), Spread(bounds, (50, 30, 20, 0))
    assert usual.at(0.9) == 100 and usual.at(0.95) == 150 and now.at(0.9) == 300 and Spread().at(0.5) == 0.0
    assert Spread(bounds, (0, 0, 0, 5)).at(0.99) == 400, "the last bin has no end"
    assert tails(usual, now, 0.05, 5) == pytest.approx(350 / 150) and tails(usual, Spread(bounds, (4, 0, 0, 0)), 0.05, 5) == 0.0
    assert tails(usual, Spread((1, 2), (0, 50, 50)), 0.05, 5) == 0.0, "counted by other bounds"
    assert now.since(usual) == Spread(), "counted anew"
    assert usual.plus(usual).since(usual) == usual and Spread().plus(now) == now.plus(Spread((1,), (1, 1))) == now


def test_what_is_normal_is_learnt_while_the_copy_creeps() -> None:
    paces = looked(Pace(), 12, ops_s=100, ms=lambda rate: 1.0 + 9.0 * (rate > 0.1))
    assert [p.phase for p in paces[:2]] == [Phase.LEARNING] * 2 and {p.limit for p in paces[:2]} == {CREEP}
    assert paces[-1].normal == Normal(1.0 * MS, 1.0 * MS), "not what they took while it went fast"
    assert Phase.PROBING in {p.phase for p in paces} and paces[-1].phase is Phase.WORKING


def test_a_guest_that_feels_it_halves_the_copy_which_grows_again_and_never_stands_still() -> None:
    def steep(rate: float) -> float:
        return 1.0 if rate < 0.5 else 4.0

    paces = looked(Pace(), 120, ops_s=100, ms=steep)
    speeds = [p.speed for p in paces[20:]]
    assert max(speeds) > 0.5 * BEST > min(speeds), "it looks for the edge from both sides"
    felt = [p for p in paces[20:] if steep(p.speed / BEST) > 2]
    assert len(felt) < 0.25 * len(speeds)
    hopeless = looked(Pace(), 60, ops_s=100, ms=lambda rate: 1.0 + 20 * (rate > 0.01))
    assert all(p.speed >= FLOOR * p.best for p in hopeless if p.phase is Phase.WORKING), "not for a moment"
    assert hopeless[-1].speed == FLOOR * BEST and hopeless[-1].limit >= 0.2 * BEST


def test_a_guest_that_feels_nothing_is_given_all_that_one_reader_takes_and_no_more() -> None:
    paces = looked(Pace(), 40, ops_s=100)
    assert paces[-1].phase is Phase.WORKING and BEST <= paces[-1].speed <= (1 + STEP) * BEST and not paces[-1].everything


def test_a_burst_is_no_work_and_a_pause_is_rest() -> None:
    idle = looked(Pace(), 3)[-1]
    burst = after(idle, Seen(0.15, 12, 6, 6, MS, MS, 100 * MIB))
    assert burst.everything
    worked = looked(burst, 12, ops_s=50)[-1]
    assert worked.phase is Phase.WORKING and worked.normal.known
    assert looked(worked, 1)[-1].everything
    again = looked(looked(worked, 3)[-1], 1, ops_s=50)[-1]
    assert again.phase is Phase.WORKING, "what is normal is known by now"


def test_a_guest_that_is_held_up_is_not_idle() -> None:
    worked = looked(Pace(), 12, ops_s=50)[-1]
    held_up = Seen(TICK_S, 2, 1, 1, 180 * MS, 180 * MS, 100 * MIB)
    assert not after(after(worked, held_up), held_up).everything
    idle = looked(Pace(), 3)[-1]
    assert not after(idle, replace(held_up, write_ns=0, flush_ns=0, read_ns=300 * MS)).everything


def test_a_guest_that_only_reads_is_not_waited_for_and_its_first_writes_are_learnt() -> None:
    pace = Pace()
    for _ in range(8):
        pace = after(pace, Seen(TICK_S, 400, copied=round(given(pace) * TICK_S)))
    assert pace.phase is Phase.WORKING and not pace.normal.known and pace.speed > FLOOR * BEST
    writing = looked(pace, 1, ops_s=60)[-1]
    assert writing.phase is Phase.LEARNING and writing.limit == CREEP


def test_what_is_known_is_not_learnt_again_by_the_next_agent() -> None:
    worked = looked(Pace(), 12, ops_s=100)[-1]
    kept = Pace(normal=worked.normal, best=worked.best)
    assert looked(kept, 1, ops_s=100)[-1].phase is Phase.WORKING


def test_a_few_writes_say_nothing_and_a_slower_storage_is_noticed() -> None:
    assert worse(Normal(MS, MS), (Seen(1.0, 4, 2, 2, 100 * MS, 100 * MS),)) == 0.0
    assert worse(Normal(MS, MS), (Seen(1.0, 40, 20, 20, 60 * MS, 20 * MS),)) == 3.0
    fast = looked(Pace(), 4)[-1]
    slow = looked(fast, 120, best=BEST / 8)[-1]
    assert slow.best < BEST / 6
    assert replace(slow, phase=Phase.WORKING).limit == CREEP, "a speed that was never set still creeps"


def test_what_a_write_takes_is_told_of_a_moment_in_which_there_were_enough() -> None:
    looks = tuple(Seen(0.5, writes=4, write_ns=n * 1_000_000) for n in (8, 4, 2))
    assert write_us(looks[:1]) == 0 and write_us(looks) == 1167
    assert within(looks, 1.0) == looks[1:] and write_us(within(looks, 1.0)) == 750
    assert write_us((Seen(1.0, flushes=9, flush_ns=9),)) == 0, "flushes are no writes"


def test_no_time_is_no_look() -> None:
    assert after(Pace(), Seen(0.0, 5)) == Pace()
