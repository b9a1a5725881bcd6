"""A log that two releases wrote side by side: one whose writer leaves digests away (before 024_append_batch_contract.sql), and this
one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from libs.common.log import CommandRow, Group, NewEvent, Unit
from libs.common.log.batch import Batch
from libs.common.log.migrate import migrate
from libs.verify.postgres import PostgresEvidence
from libs.verify.verify import Report, verify
from tests.contract.verify_rig import Connection
from tests.servers import Postgres

NAME = "asv_verify_before"
OLD_CALL = f"select * from asv.append_batch({', '.join(f'${n}' for n in range(1, 23))})"  # noqa: S608 our own words
EVENT_HASHES = 18
"""where the array of events' digests stood in the words of that release"""


def group(n: int, events: int) -> Group:
    news = (NewEvent("thing_a", 1, b"data", b"meta"),) * events
    return Group(tuple(Unit(f"vm-{n}-{k}", 0, news, CommandRow(f"c-{n}-{k}", b"asked", b"answered")) for k in range(3)))


def as_before(batch: Batch, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The words of a batch as that release has them."""
    return OLD_CALL, (*values[:EVENT_HASHES], batch.digests[0], *values[EVENT_HASHES + 1 : -1])


async def append(connection: Connection, n: int, events: int, before: bool, lost: bool = False) -> None:
    """before: as the release before does. lost: with a unit of another group that loses, so that not all is written."""
    batch = Batch()
    batch.add(group(n, events))
    if lost:
        batch.add(Group((Unit("vm-0-0", 77, (NewEvent("thing_b", 1, b"", b""),), CommandRow(f"lost-{n}", b"", b"")),)))
        batch.add(group(n + 100, events))
    query, values = batch.call(1, 1_795_000_000_000_000 + n)
    if before:
        query, values = as_before(batch, values)
    found = batch.outcome(await connection.fetchrow(query, *values))
    assert len(found.lost) == lost


@pytest.fixture
async def owner(postgres: Postgres) -> AsyncIterator[Connection]:
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"drop database if exists {NAME}")
    await admin.execute(f"create database {NAME}")
    await admin.close()
    await migrate(postgres.dsn(NAME))
    connection = await asyncpg.connect(postgres.dsn(NAME))
    for n, (events, before, lost) in enumerate(
        [(1, True, False), (2, False, False), (0, True, False), (0, False, False), (1, True, True), (2, False, True)]
    ):
        await append(connection, n, events, before, lost)
    yield connection
    await connection.close()


async def looked_at(postgres: Postgres) -> Report:
    evidence = await PostgresEvidence.open(postgres.dsn(NAME, "asv_reader"))
    try:
        return await verify(evidence)
    finally:
        await evidence.close()


async def test_what_both_wrote_holds(postgres: Postgres, owner: Connection) -> None:
    report = await looked_at(postgres)
    assert report.holds, report.faults
    assert (report.batches, report.events) == (6, 3 + 6 + 6 + 12)
    found = await owner.fetch("select batch, array_agg(distinct length(hash)) from asv.commands group by batch order by batch")
    assert [lengths for _, lengths in found] == [[16], [24], [16], [24], [16], [24]]


@pytest.mark.parametrize("id", ["c-0-1", "c-1-1", "c-2-1", "c-3-1"])
@pytest.mark.parametrize(
    "change", ["payload = 'bskex'", "outcome = 'x'", "stream = 'vm-x'", "position = position + 1", "hash = set_byte(hash, 7, 1)"]
)
async def test_a_change_of_a_command_of_either_is_named(postgres: Postgres, owner: Connection, id: str, change: str) -> None:
    await owner.execute(f"update asv.commands set {change} where id = '{id}'")  # noqa: S608 our own words
    report = await looked_at(postgres)
    assert [fault.where for fault in report.faults] == [f"command {id}"], report.faults


async def test_a_position_changed_with_its_digest_breaks_the_link(postgres: Postgres, owner: Connection) -> None:
    """Who knows how a digest is made can make it anew; not the link."""
    await owner.execute(
        "update asv.commands set position = position + 1, hash = substr(hash, 1, 16) || int8send(position + 1) where id = 'c-1-1'"
    )
    report = await looked_at(postgres)
    assert [fault.where for fault in report.faults] == ["batch 2"], report.faults


async def test_digests_of_another_number_are_refused(owner: Connection) -> None:
    batch = Batch()
    batch.add(group(50, 1))
    query, values = batch.call(1, 1_795_000_000_000_100)
    with pytest.raises(asyncpg.RaiseError, match="80 bytes of digests for 3 events and 3 units"):
        await owner.fetchrow(query, *values[:-1], values[-1][:-16])
    assert await owner.fetchval("select count(*) from asv.commands where id like 'c-50-%'") == 0
