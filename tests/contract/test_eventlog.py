"""The event log's contract, over both twins."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from libs.common.log import (
    CommandRow,
    Conflict,
    Duplicate,
    EventLog,
    Fenced,
    Group,
    NewEvent,
    Snapshot,
    Unit,
)
from libs.common.log.memory import MemoryLog
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Recorded


class Clock:
    """Microseconds that a test sets; each look adds one."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def __call__(self) -> int:
        self.us += 1
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "postgres"])
def twin_dsn(request: pytest.FixtureRequest) -> str:
    """Where the log is: empty for the one in memory."""
    if request.param == "memory":
        return ""
    dsn: str = request.getfixturevalue("postgres").dsn(request.getfixturevalue("database"), "asv_service")
    return dsn


@pytest.fixture
async def log(twin_dsn: str, clock: Clock) -> AsyncIterator[EventLog]:
    if not twin_dsn:
        yield MemoryLog(clock)
        return
    opened = await PostgresLog.open(twin_dsn, clock_us=clock)
    yield opened
    await opened.close()


def event(text: str = "x", type: str = "thing_happened") -> NewEvent:
    return NewEvent(type, 1, text.encode(), b"meta of " + text.encode())


def events(count: int) -> tuple[NewEvent, ...]:
    return tuple(event(f"event {n}") for n in range(count))


def row(id: str) -> CommandRow:
    return CommandRow(id, b"payload of " + id.encode(), b"outcome of " + id.encode())


def one(stream: str, expected: int, count: int = 1, command: str = "") -> Group:
    return Group((Unit(stream, expected, events(count), row(command) if command else None),))


async def whole(log: EventLog, after: int = 0, until: int | None = None) -> list[Recorded]:
    return [recorded async for chunk in log.replay(after, until) for recorded in chunk]


async def test_positions_and_versions_have_no_gap(log: EventLog) -> None:
    first = await log.append(one("vm-a", 0, 2))
    second = await log.append(
        Group((Unit("vm-b", 0, events(1)), Unit("vm-a", 2, events(2)), Unit("vm-b", 1, events(1))))
    )
    assert (first.positions, first.stopped) == ((1,), None)
    assert (second.positions, second.stopped) == ((3, 4, 6), None)
    recorded = await log.read_all(0)
    assert [r.position for r in recorded] == [1, 2, 3, 4, 5, 6]
    assert [(r.stream, r.version) for r in recorded] == [
        ("vm-a", 1), ("vm-a", 2), ("vm-b", 1), ("vm-a", 3), ("vm-a", 4), ("vm-b", 2),
    ]  # fmt: skip
    head = await log.head()
    assert (head.position, head.incarnation) == (6, 1)


async def test_an_event_comes_back_as_it_was_written(log: EventLog) -> None:
    strange = NewEvent("vm_started", 7, bytes(range(256)) * 3, b"\0\xff")
    await log.append(Group((Unit("vm-a", 0, (strange, NewEvent("x", 32767, b"", b""))),)))
    first, second = await log.read_stream("vm-a")
    assert (first.type, first.v, first.data, first.meta) == ("vm_started", 7, strange.data, b"\0\xff")
    assert (second.type, second.v, second.data, second.meta) == ("x", 32767, b"", b"")
    assert await whole(log) == [first, second]


async def test_an_old_version_conflicts_and_nothing_is_written(log: EventLog) -> None:
    await log.append(one("vm-a", 0, 3))
    for expected in (0, 2, 4):
        lost = await log.append(one("vm-a", expected, command=f"c-{expected}"))
        assert (lost.positions, lost.stopped) == ((), Conflict("vm-a", 3))
        assert await log.command(f"c-{expected}") is None
    assert (await log.head()).position == 3


async def test_a_unit_without_events_is_checked_as_well(log: EventLog) -> None:
    await log.append(one("vm-a", 0))
    refused = await log.append(Group((Unit("vm-a", 1, (), row("no")),)))
    assert (refused.positions, refused.stopped) == ((1,), None)
    assert await log.command("no") == Duplicate(b"outcome of no", 0)
    stale = await log.append(Group((Unit("vm-a", 0, (), row("late")),)))
    assert stale.stopped == Conflict("vm-a", 1)
    assert (await log.head()).position == 1


async def test_a_loser_harms_no_neighbour(log: EventLog) -> None:
    await log.append(one("vm-taken", 0))
    groups = [one(f"vm-{n}", 0, 2, f"c-{n}") if n % 3 else one("vm-taken", 7, 1, f"c-{n}") for n in range(60)]
    results = await asyncio.gather(*map(log.append, groups))
    for n, result in enumerate(results):
        assert (result.stopped is None) == bool(n % 3)
        assert result.stopped is None or result.stopped == Conflict("vm-taken", 1)
    assert (await log.head()).position == 1 + 2 * 40
    assert [r.position for r in await log.read_all(0)] == list(range(1, 82))
    for n, result in enumerate(results):
        assert await log.command(f"c-{n}") == (
            Duplicate(f"outcome of c-{n}".encode(), result.positions[0]) if n % 3 else None
        )


async def test_a_group_is_committed_up_to_its_first_loser(log: EventLog) -> None:
    await log.append(one("vm-b", 0))
    group = Group(
        (
            Unit("vm-a", 0, events(2), row("a"), 11),
            Unit("vm-c", 0, (), row("c"), 12),
            Unit("vm-b", 0, events(1), row("b"), 13),
            Unit("vm-d", 0, events(1), row("d"), 14),
        ),
        "compute",
        20,
    )
    result = await log.append(group)
    assert (result.positions, result.stopped) == ((2, 3), Conflict("vm-b", 1))
    assert await log.consumer_position("compute") == 12
    assert await log.command("d") is None
    assert await log.read_stream("vm-d") == []


async def test_later_units_count_the_earlier_ones(log: EventLog) -> None:
    result = await log.append(
        Group((Unit("vm-a", 0, events(2)), Unit("vm-a", 2, events(1)), Unit("vm-a", 2, events(1))))
    )
    assert (result.positions, result.stopped) == ((1, 3), Conflict("vm-a", 3))


async def test_a_repeated_command_answers_what_it_answered(log: EventLog) -> None:
    await log.append(one("vm-z", 0, 4))
    await log.append(one("vm-a", 0, 2, "id-1"))
    again = await log.append(Group((Unit("vm-a", 2, events(1), CommandRow("id-1", b"", b"another outcome")),)))
    assert (again.positions, again.stopped) == ((), Duplicate(b"outcome of id-1", 5))
    stale = await log.append(one("vm-a", 0, 1, "id-1"))  # a duplicate goes before a conflict
    assert stale.stopped == Duplicate(b"outcome of id-1", 5)
    assert (await log.head()).position == 6


async def test_commands_without_events_are_found_by_stream(log: EventLog) -> None:
    for n, (stream, count) in enumerate((("vm-a", 0), ("vm-a", 1), ("vm-b", 0), ("vm-a", 0))):
        head = (await log.read_stream(stream))[-1:]
        await log.append(one(stream, head[0].version if head else 0, count, f"id-{n}"))
    found = await log.eventless("vm-a")
    assert [(e.id, e.payload, e.outcome) for e in found] == [
        (id, b"payload of " + id.encode(), b"outcome of " + id.encode()) for id in ("id-3", "id-0")
    ]
    assert found[0].at_us >= found[1].at_us > 0
    assert [e.id for e in await log.eventless("vm-a", 1)] == ["id-3"]
    assert await log.eventless("vm-c") == []


async def test_a_command_id_twice_in_one_group(log: EventLog) -> None:
    result = await log.append(
        Group((Unit("vm-z", 0, events(3)), Unit("vm-a", 0, events(1), row("x")), Unit("vm-b", 0, events(1), row("x"))))
    )
    assert (result.positions, result.stopped) == ((1, 4), Duplicate(b"outcome of x", 4))


async def test_a_duplicate_goes_before_a_conflict_inside_a_group(log: EventLog) -> None:
    await log.append(one("vm-z", 0, 1, "old"))
    result = await log.append(Group((Unit("vm-a", 0, events(2)), Unit("vm-a", 0, events(1), row("old"), 5)), "k", 6))
    assert (result.positions, result.stopped) == ((2,), Duplicate(b"outcome of old", 1))
    assert await log.consumer_position("k") == 0
    assert await log.read_all(3) == []


async def test_the_same_command_from_many_callers_is_decided_once(log: EventLog) -> None:
    results = await asyncio.gather(*(log.append(one(f"vm-{n}", 0, 1, "same")) for n in range(40)))
    winners = [r for r in results if r.stopped is None]
    assert len(winners) == 1
    assert all(r.stopped == Duplicate(b"outcome of same", 1) for r in results if r.stopped is not None)
    assert (await log.head()).position == 1


async def test_one_stream_from_many_callers_at_once(log: EventLog) -> None:
    results = await asyncio.gather(*(log.append(one("vm-a", n // 2)) for n in range(40)))
    assert [r.stopped is None for r in results] == [n % 2 == 0 for n in range(40)]
    assert [r.version for r in await log.read_stream("vm-a")] == list(range(1, 21))


async def test_consumer_positions_move_forward_only(log: EventLog) -> None:
    assert await log.consumer_position("k") == 0
    await log.append(Group((), "k", 7))
    assert await log.consumer_position("k") == 7
    await log.append(Group((), "k", 3))
    assert await log.consumer_position("k") == 7
    await log.append(Group((Unit("vm-a", 0, events(1), None, 8), Unit("vm-a", 1, events(1), None, 9)), "k", 12))
    assert await log.consumer_position("k") == 12
    await log.append(Group((Unit("vm-a", 0, events(1), None, 30),), "k", 40))
    assert await log.consumer_position("k") == 12
    assert await log.consumer_position("other") == 0


async def test_an_empty_group_is_nothing(log: EventLog) -> None:
    assert (await log.append(Group(()))).positions == ()
    assert (await log.head()).position == 0


async def test_snapshots_keep_the_latest(log: EventLog) -> None:
    assert await log.load_snapshot("compute") is None
    for position in (5, 9, 7):
        await log.save_snapshot(Snapshot("compute", position, "v1", f"state at {position}".encode()))
    assert await log.load_snapshot("compute") == Snapshot("compute", 9, "v1", b"state at 9")


async def test_time_never_decreases(log: EventLog, clock: Clock) -> None:
    for n, us in enumerate((5_000_000, 3_000_000, 9_000_000, 1)):
        clock.us = us
        await log.append(one(f"vm-{n}", 0, 2))
    times = [r.at_us for r in await log.read_all(0)]
    assert times == sorted(times)
    assert times[-1] == 9_000_001
    assert (await log.head()).at_us == 9_000_001


async def test_big_payloads(log: EventLog) -> None:
    sizes = (0, 1, 1_999, 70_000, 1_000_000, 9_000_000)
    await asyncio.gather(
        *(log.append(Group((Unit(f"vm-{n}", 0, (NewEvent("big", 1, b"\xa5" * n, b""),)),))) for n in sizes)
    )
    assert sorted(len(r.data) for r in await whole(log)) == list(sizes)
    assert {len((await log.read_stream(f"vm-{n}"))[0].data) == n for n in sizes} == {True}


async def test_reads_are_bounded_and_start_behind(log: EventLog) -> None:
    await log.append(Group(tuple(Unit(f"vm-{n % 3}", n // 3, events(1)) for n in range(30))))
    assert [r.position for r in await log.read_all(10, 5)] == [11, 12, 13, 14, 15]
    assert [r.version for r in await log.read_stream("vm-1", 4, 3)] == [5, 6, 7]
    assert await log.read_all(30) == []
    assert await log.read_stream("vm-none") == []


async def test_replay_is_read_all(log: EventLog) -> None:
    assert await whole(log) == []
    for start in range(0, 5000, 1000):
        await log.append(
            Group(tuple(Unit(f"vm-{n}", 0, (event(str(n) * (n % 50)),)) for n in range(start, start + 1000)))
        )
    everything = await log.read_all(0, 10_000)
    assert len(everything) == 5000
    assert await whole(log) == everything
    assert await whole(log, 4321) == everything[4321:]
    assert await whole(log, 17, 3000) == everything[17:3000]
    assert await whole(log, 9, 9) == []


async def test_a_replay_may_be_left_early(log: EventLog) -> None:
    await log.append(Group(tuple(Unit(f"vm-{n}", 0, (event("y" * 5000),)) for n in range(500))))
    async for chunk in log.replay():
        assert chunk[0].position == 1
        break
    assert (await log.append(one("vm-a", 0))).positions == (501,)


@pytest.mark.parametrize(
    "group",
    [
        Group((Unit("", 0, events(1)),)),
        Group((Unit("vm-\0", 0, events(1)),)),
        Group((Unit("vm-a", -1, events(1)),)),
        Group((Unit("vm-a", 0, (NewEvent("", 1, b"", b""),)),)),
        Group((Unit("vm-a", 0, (NewEvent("x", 70_000, b"", b""),)),)),
        Group((Unit("vm-a", 0, events(1), CommandRow("", b"", b"")),)),
    ],
)
async def test_what_no_log_can_take_is_a_value_error(log: EventLog, group: Group) -> None:
    with pytest.raises(ValueError, match=r"1 to|0 \("):
        await log.append(group)
    assert (await log.append(one("vm-a", 0))).positions == (1,)


async def test_wait_returns_when_something_is_there(log: EventLog) -> None:
    await log.append(one("vm-a", 0))
    await asyncio.wait_for(log.wait(0, 60), 10)
    await asyncio.wait_for(log.wait(1, 0.01), 10)  # nothing comes: the timeout ends it
    waiting = [asyncio.create_task(log.wait(1, 60)) for _ in range(5)]
    await log.append(one("vm-a", 1))
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_a_follower_wakes_for_every_append(log: EventLog) -> None:
    count = 200

    async def follow() -> list[int]:
        seen: list[int] = []
        while len(seen) < count:
            await log.wait(len(seen), 60)
            seen += [r.position for r in await log.read_all(len(seen))]
        return seen

    follower = asyncio.create_task(follow())
    for n in range(count):
        await log.append(one("vm-a", n))
    assert await asyncio.wait_for(follower, 30) == list(range(1, count + 1))


def make_groups(choose: Callable[[int], int], steps: int) -> list[Group]:
    """Groups that often clash: few streams, few command ids, versions near the truth."""
    ids = itertools.count()
    groups = []
    for _ in range(steps):
        units = []
        for _ in range(choose(4)):
            command = row(f"c-{choose(6)}" if choose(3) == 0 else f"u-{next(ids)}") if choose(2) else None
            units.append(Unit(f"vm-{choose(3)}", choose(5), events(choose(3)), command, choose(3) * 5))
        groups.append(Group(tuple(units), "k" if choose(2) else "", choose(3) * 9))
    return groups


async def observed(log: EventLog) -> dict[str, Any]:
    """Everything that the contract lets one see, without times."""
    return {
        "events": [(r.position, r.stream, r.version, r.type, r.data) for r in await whole(log)],
        "commands": [await log.command(f"c-{n}") for n in range(6)],
        "k": await log.consumer_position("k"),
        "head": (await log.head()).position,
    }


async def test_promotion_fences_memory() -> None:
    log = MemoryLog(Clock())
    await log.append(one("vm-a", 0))
    log.promote()
    for call in (log.append(one("vm-a", 1)), log.head(), log.read_all(0)):
        with pytest.raises(Fenced):
            await call
    log.reopen()
    assert await log.head() == (await log.head())
    assert (await log.head()).incarnation == 2
