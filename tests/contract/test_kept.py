"""One suite for both stores of kept snapshots; that services and the reader cannot write there; that another process fills it."""

from __future__ import annotations

import asyncio
import os
import sys

import asyncpg
import pytest

from libs.common.log import Group, NewEvent, Snapshot, Unavailable, Unit
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Meta, encode
from proto.compute import NodeJoined
from services.gateway import snapshot
from services.gateway.past import kept
from services.gateway.past.fill import fill
from services.gateway.past.store import KeptStore, MemoryKept
from services.gateway.past.store_postgres import PostgresKept
from tests.servers import Postgres


def at(position: int, schema: str = "now") -> Snapshot:
    return Snapshot(kept.NAME, position, schema, f"{schema} {position}".encode())


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> KeptStore:
    if request.param == "memory":
        return MemoryKept()
    return PostgresKept(request.getfixturevalue("postgres").dsn(request.getfixturevalue("database"), "asv_gateway"))


async def test_the_nearest_before_is_found(store: KeptStore) -> None:
    for position in (300, 100, 200):
        await store.keep(at(position))
    assert await store.positions("now") == [100, 200, 300]
    found = [await store.nearest(position, "now") for position in (99, 100, 299, 9999)]
    assert found == [None, at(100), at(200), at(300)]


async def test_those_of_other_code_are_not_seen_replaced_and_dropped(store: KeptStore) -> None:
    await store.keep(at(100, "older"))
    await store.keep(at(200, "older"))
    assert await store.nearest(150, "now") is None and await store.positions("now") == []
    await store.keep(at(100))
    assert await store.positions("older") == [200] and await store.nearest(150, "now") == at(100)
    await store.drop_others("now")
    assert await store.positions("older") == [] and await store.positions("now") == [100]


async def test_what_is_not_wanted_goes(store: KeptStore) -> None:
    for position in (100, 200, 300):
        await store.keep(at(position))
    await store.drop([100, 300, 12345])
    await store.drop([])
    assert await store.positions("now") == [200]


async def test_a_server_that_is_away_is_said() -> None:
    with pytest.raises(Unavailable, match="kept snapshots cannot be reached"):
        await PostgresKept("postgresql:///asv?host=/nowhere").positions("now")


@pytest.mark.parametrize("role", ["asv_service", "asv_reader"])
async def test_only_the_gateway_writes_there(postgres: Postgres, database: str, role: str) -> None:
    connection = await asyncpg.connect(postgres.dsn(database, role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("insert into asv.kept_snapshots values ('past', 1, 's', '')")
    await connection.close()


async def test_another_process_makes_what_is_missing(postgres: Postgres, database: str) -> None:
    log = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    meta = encode(Meta("c", "", "c", "user:a", 0))
    for n in range(40):
        event = NewEvent("node_joined", 1, encode(NodeJoined(node=f"n{n}", key="k")), meta)  # type: ignore[arg-type]
        await log.append(Group((Unit(f"node-n{n}", 0, (event,)),)))
    await log.close()
    dsn = postgres.dsn(database, "asv_gateway")
    log, store = await PostgresLog.open(dsn), PostgresKept(dsn)
    assert await fill(log, store, every=16) == 2
    found = await store.nearest(40, snapshot.schema())
    assert found is not None and found.position == 32
    assert len(kept.view("nodes", kept.parts_of(found)).all) == 32
    await log.close()
    for named, code, said in ((dsn, 0, b"0 snapshots made"), ("", 2, b"ASV_POSTGRES_DSN is not set")):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.gateway.past", env=os.environ | {"ASV_POSTGRES_DSN": named},
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await child.communicate()
        assert (child.returncode, said in err) == (code, True), err
    assert await store.positions(snapshot.schema()) == [], "so short a log needs none"
