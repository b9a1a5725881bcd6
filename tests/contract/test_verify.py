"""`log verify` over a real database: a log that was not touched holds, and any byte that was changed is found and named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from libs.common.bus.credentials import Key, new_seed
from libs.common.log.migrate import migrate
from libs.common.log.postgres import PostgresLog
from libs.verify.checkpoint import compare, take
from libs.verify.postgres import PostgresEvidence
from libs.verify.verify import verify
from tests.contract.verify_rig import Book, Connection, changed, rewritten, write
from tests.servers import Postgres

NAME = "asv_verify"
FLIPS = 1000
UNITS = 1300
AT_ONCE = 20


@pytest.fixture(scope="module")
def filled(postgres: Postgres) -> str:
    """A log that the tests of this module read, and change for a moment."""
    asyncio.run(fill(postgres))
    return NAME


async def fill(postgres: Postgres) -> None:
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"create database {NAME}")
    await admin.close()
    await migrate(postgres.dsn(NAME))
    log = await PostgresLog.open(postgres.dsn(NAME, "asv_service"))
    await write(log, random.Random(6), UNITS)
    await log.close()


@pytest.fixture
async def owner(postgres: Postgres, filled: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(postgres.dsn(filled), server_settings={"synchronous_commit": "off"})
    yield connection
    await connection.close()


@pytest.fixture
async def evidence(postgres: Postgres, filled: str) -> AsyncIterator[PostgresEvidence]:
    opened = await PostgresEvidence.open(postgres.dsn(filled, "asv_reader"))
    yield opened
    await opened.close()


async def test_a_log_that_was_not_touched_holds(evidence: PostgresEvidence, owner: Connection) -> None:
    report = await verify(evidence)
    head = await owner.fetchrow("select position, batches, hash from asv.log_head")
    assert head is not None
    assert report.faults == []
    assert (report.events, report.until, report.batches, report.hash) == (head[0], head[0], head[1], head[2].hex())
    assert await owner.fetchval("select count(*) from asv.log_batches where last < first") > 10, "refusals alone were written"


async def test_any_part_of_it_can_be_looked_at_alone(evidence: PostgresEvidence) -> None:
    report = await verify(evidence, 500, 600)
    assert report.holds
    assert report.after <= 500
    assert 600 <= report.until < 700


@pytest.mark.timeout(600)
async def test_a_thousand_changed_bytes_are_found_and_named(evidence: PostgresEvidence, owner: Connection) -> None:
    """Twenty at a time, each put back: every one is named, and nothing beyond what it makes wrong."""
    chance = random.Random(20261201)
    book = await Book.read(owner)
    found = 0
    for _ in range(FLIPS // AT_ONCE):
        changes = book.choose(chance, AT_ONCE)
        async with changed(owner, changes):
            faults = (await verify(evidence)).faults
        named = {fault.where for fault in faults}
        for change in changes:
            assert change.named in named, f"{change}: not among {faults}"
            found += 1
        assert len(faults) <= sum(change.faults_max for change in changes), faults
    assert found == FLIPS
    assert (await verify(evidence)).faults == []


async def test_a_log_that_was_written_anew_holds_by_itself_and_not_against_a_checkpoint(
    evidence: PostgresEvidence, owner: Connection
) -> None:
    before = take(await evidence.ends(), Key(new_seed("operator")), 1)
    assert await compare(evidence, await evidence.ends(), before) == []
    async with rewritten(owner, 300):
        assert (await verify(evidence)).faults == []
        faults = await compare(evidence, await evidence.ends(), before)
        assert [fault.where for fault in faults] == [f"checkpoint at {before.position}"]
        assert "not the one that was signed" in faults[0].what
    assert await compare(evidence, await evidence.ends(), before) == []
    later = msgspec.structs.replace(before, batch=before.batch + 1)
    assert "restored to before it" in (await compare(evidence, await evidence.ends(), later))[0].what


async def test_what_stands_beside_the_log_is_looked_at(evidence: PostgresEvidence, owner: Connection) -> None:
    """Heads of streams, consumers and snapshots: all at once, each named."""
    end = (await evidence.ends()).position
    await owner.execute(
        "update asv.stream_heads set version = version + 1 where stream = 'vm-3';"
        "update asv.consumers set position = position + 1000000 where name = 'reader';"
    )
    await owner.execute("insert into asv.snapshots (name, position, schema, data) values ('compute', $1, 's', '')", end + 5)
    named = {fault.where for fault in (await verify(evidence)).faults}
    await owner.execute(
        "update asv.stream_heads set version = version - 1 where stream = 'vm-3';"
        "update asv.consumers set position = position - 1000000 where name = 'reader';"
        "delete from asv.snapshots"
    )
    assert named == {"stream vm-3", "consumer reader", "snapshot compute"}
    assert (await verify(evidence)).faults == []


@pytest.mark.parametrize("table", ["events", "log_batches", "commands", "log_head", "stream_heads", "consumers", "snapshots"])
async def test_the_verifier_s_role_writes_nothing(postgres: Postgres, filled: str, table: str) -> None:
    connection = await asyncpg.connect(postgres.dsn(filled, "asv_reader"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"delete from asv.{table}")  # noqa: S608 our own words
    finally:
        await connection.close()
