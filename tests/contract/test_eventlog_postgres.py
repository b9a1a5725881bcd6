"""What only a real database can get wrong: several writers, lost servers, roles, fencing, a changed byte, many partitions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.log import Fenced, Group, LogError, Unavailable, Unit
from libs.common.log.memory import MemoryLog
from libs.common.log.migrate import MigrationFailed, migrate, raise_incarnation
from libs.common.log.postgres import PostgresLog
from tests.contract.databases import TEMPLATE
from tests.contract.test_eventlog import Clock, events, make_groups, observed, one, row, whole
from tests.servers import Postgres


@pytest.fixture
def dsn(postgres: Postgres, database: str) -> str:
    return postgres.dsn(database, "asv_service")


@pytest.fixture
async def owner(postgres: Postgres, database: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres.dsn(database))
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def opened(dsn: str, wait_s_max: float = 20.0) -> AsyncIterator[PostgresLog]:
    log = await PostgresLog.open(dsn, wait_s_max=wait_s_max)
    try:
        yield log
    finally:
        await log.close()


async def test_two_writers_and_a_follower_that_misses_nothing(dsn: str) -> None:
    per_caller, callers = 25, 12
    total = per_caller * callers * 2

    async def caller(log: PostgresLog, name: str) -> None:
        for n in range(per_caller):
            result = await log.append(one(name, n, 1, f"{name}-{n}"))
            assert result.stopped is None

    async def follow(log: PostgresLog) -> list[int]:
        seen: list[int] = []
        while len(seen) < total:
            await log.wait(seen[-1] if seen else 0, 30)
            seen += [r.position for r in await log.read_all(seen[-1] if seen else 0, 17)]
        return seen

    async with opened(dsn) as a, opened(dsn) as b, opened(dsn) as reader:
        following = asyncio.create_task(follow(reader))
        await asyncio.gather(
            *(caller(log, f"vm-{name}-{n}") for log, name in ((a, "a"), (b, "b")) for n in range(callers))
        )
        assert await asyncio.wait_for(following, 60) == list(range(1, total + 1))
        assert reader.counters.notify_missed == 0
        times = [r.at_us for r in await whole(reader)]
        assert times == sorted(times)


async def test_two_writers_on_one_stream_conflict_but_leave_no_gap(dsn: str) -> None:
    async def caller(log: PostgresLog) -> int:
        won = version = 0
        for _ in range(60):
            result = await log.append(one("vm-a", version))
            won += result.stopped is None
            version = len(await log.read_stream("vm-a"))
        return won

    async with opened(dsn) as a, opened(dsn) as b:
        won = sum(await asyncio.gather(caller(a), caller(b)))
        assert [r.version for r in await a.read_stream("vm-a")] == list(range(1, won + 1))
        assert (await a.head()).position == won


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_twins_agree(postgres: Postgres, database: str, data: st.DataObject) -> None:
    """Random groups, one after the other on the twin, in bursts of callers on Postgres, whose queue keeps their order."""
    groups = make_groups(lambda n: data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, 25)))
    burst = data.draw(st.integers(1, 8))

    async def compare() -> None:
        memory = MemoryLog(Clock())
        admin = await asyncpg.connect(postgres.dsn())
        await admin.execute("drop database if exists asv_twin with (force)")
        await admin.execute(f"create database asv_twin template {TEMPLATE}")
        await admin.close()
        async with opened(postgres.dsn("asv_twin", "asv_service")) as log:
            for start in range(0, len(groups), burst):
                part = groups[start : start + burst]
                # Groups of one consumer and streams keep their order; others of a burst may change places.
                if any(_share(a, b) for i, a in enumerate(part) for b in part[:i]) or len(part) == 1:
                    for group in part:
                        want, got = memory.append_now(group), await log.append(group)
                        assert (got.positions, got.stopped) == (want.positions, want.stopped), group
                else:
                    results = await asyncio.gather(*map(log.append, part))
                    wants = [memory.append_now(group) for group in part]
                    assert [r.stopped for r in results] == [w.stopped for w in wants]
                    assert [len(r.positions) for r in results] == [len(w.positions) for w in wants]
            seen, due = await observed(log), await observed(memory)
            assert sorted(e[1:] for e in seen["events"]) == sorted(e[1:] for e in due["events"])
            assert [e[0] for e in seen["events"]] == [e[0] for e in due["events"]]
            assert (seen["k"], seen["head"]) == (due["k"], due["head"])

    asyncio.run(compare())


def _share(a: Group, b: Group) -> bool:
    streams = {u.stream for u in a.units} & {u.stream for u in b.units}
    commands = {u.command.id for u in a.units if u.command} & {u.command.id for u in b.units if u.command}
    return bool(streams or commands)


async def test_a_killed_server_loses_nothing_that_was_acknowledged(postgres: Postgres, dsn: str) -> None:
    """SIGKILL to all of Postgres in the middle of appends, three times; the callers only ever see success."""
    acknowledged: dict[str, int] = {}
    enough = asyncio.Event()
    wanted = 50

    async def caller(log: PostgresLog, name: str) -> None:
        version = 0
        while not enough.is_set():
            id = f"{name}-{version}" if version % 3 else ""
            result = await log.append(one(name, version, 1 + version % 2, id))
            assert result.stopped is None, result
            for n in range(1 + version % 2):
                acknowledged[f"{name}/{version + 1 + n}"] = result.positions[0] + n
            version += 1 + version % 2

    async with opened(dsn, 60) as log:
        callers = [asyncio.create_task(caller(log, f"vm-{n}")) for n in range(20)]
        for _ in range(3):
            goal = len(acknowledged) + wanted
            while len(acknowledged) < goal:
                await log.wait((await log.head()).position, 1)
            postgres.kill()
            met = log.counters.lost
            while log.counters.lost == met:
                await asyncio.sleep(0)
            postgres.start()
        goal = len(acknowledged) + wanted
        while len(acknowledged) < goal:
            await log.wait((await log.head()).position, 1)
        enough.set()
        await asyncio.gather(*callers)
        recorded = await whole(log)
        assert [r.position for r in recorded] == list(range(1, len(recorded) + 1))
        assert {f"{r.stream}/{r.version}": r.position for r in recorded} == acknowledged
        assert log.counters.reconnects > 1


async def test_a_server_that_stays_away_is_unavailable_within_the_bound(postgres: Postgres, dsn: str) -> None:
    async with opened(dsn, 0.5) as log:
        await log.append(one("vm-a", 0))
        postgres.kill()
        try:
            begin = time.monotonic()
            results = await asyncio.gather(
                log.append(one("vm-a", 1)), log.append(one("vm-b", 0)), log.head(), log.read_all(0), log.command("x"),
                return_exceptions=True,
            )  # fmt: skip
            assert time.monotonic() - begin < 5
            assert all(isinstance(r, Unavailable) for r in results), results
            await log.wait(1, 0.05)
            with pytest.raises(Unavailable):
                await whole(log)
        finally:
            postgres.start()
        assert (await log.append(one("vm-a", 1))).positions == (2,)


async def test_another_incarnation_fences(postgres: Postgres, database: str, dsn: str) -> None:
    async with opened(dsn) as log, opened(dsn) as other:
        await log.append(one("vm-a", 0))
        assert await raise_incarnation(postgres.dsn(database)) == 2
        with pytest.raises(Fenced):
            await log.append(one("vm-a", 1))
        with pytest.raises(Fenced):
            await log.append(one("vm-b", 0))
        with pytest.raises(Fenced):
            await other.head()
    with pytest.raises(Fenced):
        await PostgresLog.open(dsn, incarnation=1)
    async with opened(dsn) as log:
        assert (await log.head()).incarnation == 2
        assert (await log.append(one("vm-a", 1))).positions == (2,)


@pytest.mark.parametrize(
    "statement",
    [
        "update asv.events set data = 'x'",
        "delete from asv.events",
        "truncate asv.events",
        "insert into asv.events select * from asv.events",
        "update asv.log_head set position = 0",
        "update asv.stream_heads set version = 9",
        "delete from asv.commands",
        "delete from asv.log_batches",
        "drop table asv.events",
        "select asv.add_partition()",
        "select asv.raise_incarnation()",
        "select * from asv.tokens",
        "create table asv.mine (a int)",
    ],
)
async def test_a_service_may_not(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_log_goes_on_over_partitions(dsn: str, owner: asyncpg.Connection[asyncpg.Record]) -> None:
    async with opened(dsn) as log:
        await log.append(one("vm-a", 0))
        await owner.execute("update asv.log_head set position = 3999989")
        result = await log.append(Group(tuple(Unit(f"vm-{n}", 0, events(1), row(f"c-{n}")) for n in range(20))))
        assert result.positions == tuple(range(3_999_990, 4_000_010))
        assert (await log.append(one("vm-a", 1, 2))).positions == (4_000_010,)
        assert [r.position for r in await log.read_stream("vm-a")] == [1, 4_000_010, 4_000_011]
        assert sum([len(chunk) async for chunk in log.replay(3_999_989)]) == 22
        with pytest.raises(LogError, match="1 events where 1 to"):  # a log has no holes; this one was made by hand
            await whole(log)
    partitions = await owner.fetchval("select count(*) from pg_inherits where inhparent = 'asv.events'::regclass")
    assert partitions == 2


async def test_a_lost_answer_is_found_out(
    postgres: Postgres, dsn: str, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    """The database commits, but the writer's connection ends before it hears of it: it must report just what was done."""
    async with opened(dsn) as log:
        await log.append(one("vm-taken", 0))
        async with owner.transaction():
            await owner.execute("select from asv.log_head for update")  # the writer's append has to wait for us
            groups = [one("vm-a", 0, 2, "c-a"), one("vm-taken", 0, 1, "c-t"), one("vm-b", 0), Group((), "k", 5)]
            appends = [asyncio.create_task(log.append(group)) for group in groups]
            while not await owner.fetchval("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0)
            log._writer._lanes[0]._connection._transport.abort()  # type: ignore[union-attr]
        results = await asyncio.wait_for(asyncio.gather(*appends), 30)
        assert [r.stopped is None for r in results] == [True, False, True, True]
        recorded = await whole(log)
        assert [r.position for r in recorded] == list(range(1, len(recorded) + 1))
        assert [(r.stream, r.version) for r in recorded].count(("vm-a", 1)) == 1
        assert log.counters.resolved + log.counters.reconnects >= 2
        stored = await log.command("c-a")
        assert stored is not None
        assert stored.position == results[0].positions[0]


async def test_migrations_run_once_and_never_change(postgres: Postgres, database: str) -> None:
    assert await migrate(postgres.dsn(database)) == []
    connection = await asyncpg.connect(postgres.dsn(database))
    await connection.execute("update asv.migrations set digest = 'another' where file = '001_events.sql'")
    await connection.close()
    with pytest.raises(MigrationFailed, match=r"001_events\.sql was applied with another text"):
        await migrate(postgres.dsn(database))


async def test_a_database_without_the_log_is_a_clear_error(postgres: Postgres) -> None:
    with pytest.raises(LogError, match="log_head"):
        await PostgresLog.open(postgres.dsn("postgres"))
