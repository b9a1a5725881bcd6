"""A past log's contract, over the one in memory, a file's and a database's; and that the database's reader cannot write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import asyncpg
import pytest

from libs.common.log import EventLog, LogError, Unavailable
from libs.common.log.memory import MemoryLog
from libs.common.log.postgres import PostgresLog
from libs.past import postgres as past_postgres
from libs.past.aslog import AslogPast, aslog, write
from libs.past.memory import MemoryPast
from libs.past.postgres import PostgresPast
from libs.past.source import Answers, Decided, Past
from libs.past.where import open_past
from tests.contract.test_eventlog import Clock, one, whole
from tests.servers import Postgres


class Both(NamedTuple):
    log: EventLog
    past: Past


class Filed:
    """What is in the log, written to a file whenever it is asked for, and read from there."""

    def __init__(self, log: MemoryLog, path: Path) -> None:
        self._log, self._path = log, path

    def unwritten(self, after_us: int = 0) -> AsyncIterator[Sequence[Decided]]:
        return cast("AsyncIterator[Sequence[Decided]]", self.__getattr__("unwritten")(after_us))

    def __getattr__(self, name: str) -> Any:
        events, kept = self._log.read_all_now(0, self._log.head_now().position), self._log.commands_now().items()
        rows = [Decided(one.answer.position, one.at_us, id, one.stream, one.payload, one.answer.outcome) for id, one in kept]
        write(self._path, aslog(events, rows, self._log.head_now().incarnation))
        return getattr(AslogPast.open(self._path), name)


@pytest.fixture(params=["memory", "file", "postgres"])
def dsns(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Of the service and the reader; for the others what they are."""
    if request.param != "postgres":
        return "", request.param
    server: Postgres = request.getfixturevalue("postgres")
    database = request.getfixturevalue("database")
    return server.dsn(database, "asv_service"), server.dsn(database, "asv_reader")


@pytest.fixture
async def both(dsns: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Both]:
    """With commands a few positions at a time."""
    clock = Clock()
    if not dsns[0]:
        memory = MemoryLog(clock)
        yield Both(memory, MemoryPast(memory) if dsns[1] == "memory" else cast("Past", Filed(memory, tmp_path / "it.aslog")))
        return
    monkeypatch.setattr(past_postgres, "COMMANDS_RANGE", 3)
    log = await PostgresLog.open(dsns[0], clock_us=clock)
    past = await open_past(dsns[1])
    yield Both(log, past)
    await past.close()
    await log.close()


async def written(log: EventLog) -> None:
    """Positions 1 to 9: a's versions by commands, b's without, and a command that wrote nothing."""
    await log.append(one("thing-a", 0, 2, "a1"))
    await log.append(one("thing-b", 0, 1))
    await log.append(one("thing-a", 2, 0, "refused"))
    await log.append(one("thing-a", 2, 3, "a2"))
    await log.append(one("thing-b", 1, 1))
    await log.append(one("thing-a", 5, 2, "a3"))


async def commands(past: Past, after: int = 0, until: int | None = None) -> list[tuple[int, str]]:
    return [(one.position, one.id) async for chunk in past.commands(after, until) for one in chunk]


async def test_it_reads_what_the_log_reads(both: Both) -> None:
    log, past = both
    await written(log)
    assert await past.head() == await log.head()
    read = [recorded async for chunk in past.replay() for recorded in chunk]
    assert read == await whole(log) and len(read) == 9
    assert [r.position async for chunk in past.replay(3, 5) for r in chunk] == [4, 5]
    assert await past.read_stream("thing-a", 5) == await log.read_stream("thing-a", 5)
    assert await past.eventless("thing-a") == await log.eventless("thing-a")


async def test_commands_come_in_the_order_of_what_they_wrote(both: Both) -> None:
    log, past = both
    await written(log)
    assert await commands(past) == [(1, "a1"), (4, "a2"), (8, "a3")]
    assert await commands(past, 1) == [(4, "a2"), (8, "a3")]
    assert await commands(past, 1, 7) == [(4, "a2")]
    assert await commands(past, 9) == [] == await commands(past, 0, 0)
    found = [one async for chunk in past.commands(3, 4) for one in chunk]
    assert [(one.stream, one.payload, one.outcome) for one in found] == [("thing-a", b"payload of a2", b"outcome of a2")]


async def test_commands_that_wrote_nothing_come_in_the_order_of_their_times(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    log, past = both
    monkeypatch.setattr(past_postgres, "UNWRITTEN_MAX", 1)
    await written(log)
    await log.append(one("thing-c", 0, 0, "another"))
    assert isinstance(past, Answers)
    found = [one async for chunk in past.unwritten() for one in chunk]
    assert [(one.position, one.id, one.stream) for one in found] == [(0, "refused", "thing-a"), (0, "another", "thing-c")]
    assert found[0].at_us < found[1].at_us
    later = [one.id async for chunk in past.unwritten(found[0].at_us) for one in chunk]
    assert later == ["another"]


async def test_a_time_is_a_position(both: Both) -> None:
    log, past = both
    await written(log)
    times = [recorded.at_us for recorded in await whole(log)]
    assert await past.position_at(times[0] - 1) == 0
    assert await past.position_at(times[0]) == 2, "all of its batch"
    assert await past.position_at(times[5]) == 6
    assert await past.position_at(times[-1] + 10**9) == 9


async def test_an_empty_log_has_no_past(both: Both) -> None:
    assert await both.past.position_at(10**15) == 0
    assert [chunk async for chunk in both.past.replay()] == []
    assert await commands(both.past) == []


TABLES = ("events", "log_head", "log_batches", "stream_heads", "commands", "consumers", "snapshots", "archives", "retention")
SELECT = "select * from asv.{} limit 1"
STATEMENTS = ("delete from asv.{}", "insert into asv.{} default values", "truncate asv.{}")
SECRET = ("secrets", "tokens", "join_tokens", "blobs")


@pytest.mark.parametrize("read_only", [True, False])
async def test_its_role_changes_nothing_even_where_it_may_try(postgres: Postgres, database: str, read_only: bool) -> None:
    connection = await asyncpg.connect(postgres.dsn(database, "asv_reader"))
    await connection.execute(f"set default_transaction_read_only = {'on' if read_only else 'off'}")
    refused = (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)
    for table in TABLES:
        await connection.fetch(SELECT.format(table))
        for statement in STATEMENTS:
            with pytest.raises(refused):
                await connection.execute(statement.format(table))
    for table in SECRET:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(SELECT.format(table))
    for call in ("asv.add_partition()", "asv.raise_incarnation()"):
        with pytest.raises(refused):
            await connection.fetch(f"select {call}")
    with pytest.raises(refused):
        await connection.execute("create table asv.mine (one int)")
    await connection.close()


async def test_its_connections_refuse_to_write_whoever_they_are(postgres: Postgres, database: str) -> None:
    past = await PostgresPast.open(postgres.dsn(database))
    with pytest.raises(LogError, match="read-only"):
        await past._read("delete", "delete from asv.log_batches returning 1")
    await past.close()


async def test_what_is_no_log_is_said() -> None:
    with pytest.raises(LogError, match="postgresql://"):
        await open_past("nowhere.txt")
    with pytest.raises(Unavailable):
        await PostgresPast.open("postgresql:///asv?host=/nowhere", wait_s_max=0.2)
