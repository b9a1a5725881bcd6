"""Partitions in archives, over a real database: whoever reads is given the same, whatever ended a run, and a bad file is named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from libs.common.log import LogError
from libs.common.log import replay as replaying
from libs.common.log.archive import BadArchive
from libs.common.log.archive.file import Archive
from libs.common.log.postgres import PostgresLog
from libs.past.postgres import PostgresPast
from libs.retention import NotArchived
from libs.retention.archiver import Archiver
from libs.retention.policy import Policy
from libs.verify.archived import Files
from libs.verify.postgres import PostgresEvidence
from libs.verify.verify import verify
from tests.contract.archive_rig import (
    NO_COMMANDS,
    NOW_US,
    PARTITION,
    POLICY,
    Connection,
    Read,
    archive,
    read,
    small_partitions,
    verified,
)
from tests.contract.databases import fresh
from tests.contract.test_eventlog import one
from tests.contract.verify_rig import rewritten, write
from tests.servers import Postgres

UNITS = 800
STEPS = ("write", "prove", "name", "record", "detach", "drop", "dropped")


class Rig(NamedTuple):
    owner: Connection
    admin: str
    service: str
    reader: str
    folder: Path
    before: Read


async def filled(postgres: Postgres, name: str, folder: Path, seed: int = 6) -> Rig:
    owner = await asyncpg.connect(postgres.dsn(name))
    await small_partitions(owner)
    rig = Rig(owner, postgres.dsn(name), postgres.dsn(name, "asv_service"), postgres.dsn(name, "asv_reader"), folder, None)  # type: ignore[arg-type]
    log = await PostgresLog.open(rig.service)
    await write(log, random.Random(seed), UNITS)
    await log.close()
    await owner.execute("update asv.consumers set position = (select position from asv.log_head)")
    return rig._replace(before=await read(rig.service, rig.reader))


@pytest.fixture
async def rig(postgres: Postgres, database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    made = await filled(postgres, database, tmp_path / "archive")
    yield made
    await made.owner.close()


async def partitions(rig: Rig) -> list[str]:
    rows = await rig.owner.fetch("select relname from pg_class where relname ~ '^events_[0-9]+$' and relkind = 'r'")
    return sorted((row[0] for row in rows), key=lambda name: int(name[7:]))


async def test_readers_are_given_the_same_from_archives_and_database(rig: Rig) -> None:
    done = await archive(rig.admin, rig.folder)
    assert (len(done.archived) >= 3, done.blocked) == (True, [])
    last = done.archived[-1].last
    assert f"events_{last + 1 - PARTITION}" not in await partitions(rig)
    assert await rig.owner.fetchval("select min(position) from asv.events") == last + 1
    assert await read(rig.service, rig.reader) == rig.before
    report = await verified(rig.reader)
    assert (report.faults, report.events) == ([], len(rig.before.events))
    assert any(row.pending for row in done.archived), "some batch goes on behind the end of a partition"
    again = await archive(rig.admin, rig.folder)
    assert (again.archived, again.blocked) == ([], [])


async def test_commands_and_batches_leave_the_database_later(rig: Rig) -> None:
    done = await archive(rig.admin, rig.folder)
    batch = done.archived[-1].last_batch
    assert await rig.owner.fetchval("select count(*) from asv.log_batches where number <= $1", batch) == batch
    await archive(rig.admin, rig.folder, Policy(keep_events=10**6, commands_days=10**6))
    assert await rig.owner.fetchval("select min(number) from asv.log_batches") == batch + 1
    kept = await rig.owner.fetchval("select count(*) from asv.commands where batch <= $1", batch)
    assert kept > 20, "ids by which a repeated command is known"
    assert await read(rig.service, rig.reader) == rig.before
    await archive(rig.admin, rig.folder, NO_COMMANDS)
    assert await rig.owner.fetchval("select count(*) from asv.commands where batch <= $1", batch) == 0
    assert await read(rig.service, rig.reader) == rig.before
    assert (await verified(rig.reader)).faults == []


async def test_the_log_goes_on_and_is_archived_on(rig: Rig) -> None:
    await archive(rig.admin, rig.folder)
    log = await PostgresLog.open(rig.service)
    for n in range(PARTITION + 10):
        await log.append(one("more-a", n, 1, f"m-{n}"))
    await log.close()
    await rig.owner.execute("update asv.consumers set position = (select position from asv.log_head)")
    done = await archive(rig.admin, rig.folder)
    assert len(done.archived) >= 1
    assert (await verified(rig.reader)).faults == []
    assert [f.name for f in sorted(rig.folder.iterdir())] == [
        row[0] for row in await rig.owner.fetch("select name from asv.archives order by first")
    ]


class Crash(BaseException):
    """A process that is gone."""


@pytest.mark.parametrize("word", STEPS)
@pytest.mark.parametrize("number", [1, 2])
async def test_a_crash_at_any_step_loses_nothing_and_the_next_run_goes_on(rig: Rig, word: str, number: int) -> None:
    seen = 0

    def step(said: str, _: str) -> None:
        nonlocal seen
        seen += said == word
        if seen == number:
            raise Crash

    archiver = await Archiver.open(rig.admin, rig.folder, step)
    with pytest.raises(Crash):
        await archiver.run(POLICY, (), NOW_US)
    archiver._connection.terminate()
    await _gone(rig, archiver)
    assert await read(rig.service, rig.reader) == rig.before
    assert (await verified(rig.reader)).faults == []
    await archive(rig.admin, rig.folder)
    assert await rig.owner.fetchval("select bool_and(dropped) from asv.archives")
    assert await read(rig.service, rig.reader) == rig.before
    assert (await verified(rig.reader)).faults == []
    assert len(list(rig.folder.iterdir())) == await rig.owner.fetchval("select count(*) from asv.archives")
    assert int((await partitions(rig))[0][7:]) == await rig.owner.fetchval("select max(last) + 1 from asv.archives")


async def _gone(rig: Rig, archiver: Archiver) -> None:
    """Its server process has ended, and given its locks back."""
    async with asyncio.timeout(20):
        while await rig.owner.fetchval(
            "select count(*) from pg_locks l join pg_database d on d.oid = l.database"
            " where l.locktype = 'advisory' and d.datname = current_database()"
        ):
            await asyncio.sleep(0)


async def test_nobody_waits_for_a_run_and_one_that_ended_within_the_detaching_is_gone_on_from(rig: Rig) -> None:
    """Somebody reads for long: the run waits for them, the writer does not. Then the server ends the run."""
    reader = await asyncpg.connect(rig.reader)
    await reader.execute("begin isolation level repeatable read")
    await reader.fetch("select count(*) from asv.events")
    run = asyncio.create_task(archive(rig.admin, rig.folder))
    waits = "select pid from pg_stat_activity where query like 'alter table asv.events detach%' and wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not (pid := await rig.owner.fetchval(waits)):
            assert not run.done(), run.result()
            await asyncio.sleep(0)
    log = await PostgresLog.open(rig.service)
    async with asyncio.timeout(5):
        await log.append(one("while-a", 0))
        await rig.owner.fetchval("select asv.add_partition()")
    await log.close()
    await rig.owner.fetchval("select pg_terminate_backend($1)", pid)
    with pytest.raises(LogError, match="run it again"):
        await run
    await reader.close()
    assert await rig.owner.fetchval("select bool_or(inhdetachpending) from pg_inherits")
    found = await read(rig.service, rig.reader)
    assert found.events[:-1] == rig.before.events
    await archive(rig.admin, rig.folder)
    assert not await rig.owner.fetchval("select bool_or(inhdetachpending) from pg_inherits")
    assert await read(rig.service, rig.reader) == found
    assert (await verified(rig.reader)).faults == []


async def test_what_is_archived_while_one_reads_is_read_on_from_its_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "RANGE", 50)
    log = await PostgresLog.open(rig.service)
    records = log.replay()
    found = list(await anext(records))
    await archive(rig.admin, rig.folder)
    async for chunk in records:
        found += chunk
    await log.close()
    assert found == rig.before.events


async def test_nothing_is_taken_away_while_somebody_verifies(rig: Rig) -> None:
    evidence = await PostgresEvidence.open(rig.reader)
    run = asyncio.create_task(archive(rig.admin, rig.folder))
    async with asyncio.timeout(20):
        while not await rig.owner.fetchval("select count(*) from pg_locks where locktype = 'advisory' and not granted"):
            assert not run.done(), run.result()
            await asyncio.sleep(0)
    report = await verify(evidence)
    assert (report.faults, report.events) == ([], len(rig.before.events))
    assert (await partitions(rig))[0] == "events_1"
    await evidence.close()
    assert len((await run).archived) >= 3


async def test_what_would_need_the_archive_soon_holds_it_up(rig: Rig) -> None:
    await rig.owner.execute("update asv.consumers set position = 7")
    archiver = await Archiver.open(rig.admin, rig.folder)
    found = await archiver.run(POLICY, ("compute",), NOW_US)
    with pytest.raises(NotArchived, match="another run"):
        await Archiver.open(rig.admin, rig.folder)
    await archiver.close()
    assert found.archived == []
    assert ["consumer reader is at position 7" in found.blocked[0], "compute has no snapshot" in found.blocked[1]] == [True, True]
    assert not rig.folder.exists()


async def test_only_the_owner_archives(rig: Rig) -> None:
    with pytest.raises(NotArchived, match="asv_owner"):
        await Archiver.open(rig.service, rig.folder)


async def test_a_partition_that_does_not_hold_is_not_taken_away(rig: Rig) -> None:
    await rig.owner.execute("update asv.events set data = 'x' where position = 17")
    with pytest.raises(NotArchived, match="position 17 its content is not what was written"):
        await archive(rig.admin, rig.folder)
    await rig.owner.execute("delete from asv.events where position = 19")
    with pytest.raises(NotArchived, match="299 events where 1 to 300"):
        await archive(rig.admin, rig.folder)
    assert list(rig.folder.iterdir()) == []
    assert await rig.owner.fetchval("select count(*) from asv.archives") == 0


async def test_a_file_of_another_history_is_never_written_over(rig: Rig) -> None:
    """As after a restore from a backup: what was archived since then is of a time that the database does not know."""

    def step(word: str, _: str) -> None:
        if word == "record":
            raise Crash

    with pytest.raises(Crash):
        await archive(rig.admin, rig.folder, step=step)
    file = next(iter(rig.folder.iterdir()))
    was = file.read_bytes()
    async with rewritten(rig.owner, 100):
        with pytest.raises(NotArchived, match="another history"):
            await archive(rig.admin, rig.folder)
        assert (file.read_bytes(), await rig.owner.fetchval("select count(*) from asv.archives")) == (was, 0)
    assert (await archive(rig.admin, rig.folder)).archived[0].name == file.name
    assert file.read_bytes() == was
    assert (await verified(rig.reader)).faults == []


async def test_a_bad_file_is_named_with_its_positions(rig: Rig, postgres: Postgres, tmp_path: Path) -> None:
    done = await archive(rig.admin, rig.folder)
    row = done.archived[1]
    path = rig.folder / row.name
    good = path.read_bytes()

    async def refused(match: str) -> None:
        for reading in (verified(rig.reader), read(rig.service, rig.reader)):
            with pytest.raises(BadArchive, match=match) as error:
                await reading
            assert f"{path} (positions {row.first} to {row.last})" in str(error.value)

    path.write_bytes(good[:-100])
    await refused(rf"is torn: it has {len(good) - 100} bytes, and {len(good)} were written")
    path.write_bytes(good[:200] + bytes([good[200] ^ 4]) + good[201:])
    await refused(f"its part with positions {row.first} to {row.last}")
    path.unlink()
    await refused("is not there; put it back")
    async with fresh(postgres) as name:
        other = await filled(postgres, name, tmp_path / "other", seed=7)
        stranger = other.folder / (await archive(other.admin, other.folder)).archived[1].name
        await other.owner.close()
    path.write_bytes(stranger.read_bytes())
    await refused("is another file than the one that was made")
    mine = Archive.open(rig.folder / done.archived[0].name)
    with pytest.raises(BadArchive, match=f"is of log {Archive.open(stranger).header.log[:4].hex()}"):
        Files([mine, Archive.open(stranger)])
    with pytest.raises(BadArchive, match=f"positions {row.first} to {row.last} are in no archive"):
        Files([mine, Archive.open(rig.folder / done.archived[2].name)])
    path.write_bytes(good)
    moved = rig.folder.rename(tmp_path / "moved")
    assert await read(rig.service, rig.reader, moved) == rig.before
    assert (await verified(rig.reader, moved)).faults == []


async def test_what_is_in_the_database_is_read_without_the_files(rig: Rig) -> None:
    done = await archive(rig.admin, rig.folder)
    last = done.archived[-1].last
    for file in rig.folder.iterdir():
        file.unlink()
    log, past = await PostgresLog.open(rig.service), await PostgresPast.open(rig.reader)
    assert [r async for chunk in log.replay(last) for r in chunk] == rig.before.events[last:]
    assert await log.read_all(last, 10) == rig.before.events[last : last + 10]
    assert await past.position_at(rig.before.events[-1].at_us) == len(rig.before.events)
    with pytest.raises(BadArchive, match="is not there"):
        await log.read_all(last - 1, 10)
    await past.close()
    await log.close()


async def test_archives_are_proven_alone(rig: Rig) -> None:
    done = await archive(rig.admin, rig.folder)
    archives = [Archive.open(rig.folder / row.name) for row in done.archived]
    report = await verify(Files(archives))
    assert (report.faults, report.until, report.hash) == ([], done.archived[-1].ended, done.archived[-1].hash.hex())
    for one_alone in archives:
        assert (await verify(Files([one_alone]))).faults == []
