"""A gateway's start from its snapshot, on the real log and as the role that a gateway has."""

from __future__ import annotations

import pytest

from libs.common.bus.memory import Hub, MemoryBus
from libs.common.log import Group, LogError, NewEvent, Snapshot, Unit
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Meta, encode, tag_of
from services.gateway import follow, snapshot
from services.gateway.follow import Follower
from tests.contract.gateway_rig import defined
from tests.servers import Postgres


def unit(vm: str) -> Unit:
    event = defined(vm)
    meta = encode(Meta("k", "", "k", "user:u", 0, project="default"))
    return Unit(f"vm-{vm}", 0, (NewEvent(tag_of(type(event)), 1, encode(event), meta),))


async def opened(log: PostgresLog) -> Follower:
    follower = Follower(log, MemoryBus(Hub()))
    await follower.open()
    return follower


async def test_the_second_start_folds_the_tail_only(postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "SNAPSHOT_EVERY", 3)
    services = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    log = await PostgresLog.open(postgres.dsn(database, "asv_gateway"))
    try:
        await services.append(Group(tuple(unit(f"vm{n}") for n in range(4))))
        first = await opened(log)
        kept = await log.load_snapshot(snapshot.NAME)
        assert kept is not None and kept.position == 4
        await services.append(Group((unit("late"),)))
        await first.catch_up()
        second = await opened(log)
        assert second.model == first.model and len(second.model.vms.all) == 5
        assert [r.position for r in second.recent] == [5], "the others were not read again"
        assert [r.position for r in await second.since(0, 10)] == [1, 2, 3, 4, 5], "they are had from the log"
        for follower in (first, second):
            await follower.close()
    finally:
        await services.close()
        await log.close()


async def test_nobody_folds_from_a_snapshot_that_another_role_wrote(postgres: Postgres, database: str) -> None:
    services = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    log = await PostgresLog.open(postgres.dsn(database, "asv_gateway"))
    try:
        await services.save_snapshot(Snapshot("compute", 1, "s", b"mine"))
        await log.save_snapshot(Snapshot("gateway", 1, "s", b"mine"))
        for writer, name in ((log, "compute"), (services, "gateway")):
            with pytest.raises(LogError, match="row-level security"):
                await writer.save_snapshot(Snapshot(name, 2, "s", b"another's"))
            assert await writer.load_snapshot(name) is None
        kept = await services.load_snapshot("compute")
        assert kept is not None and kept.data == b"mine"
    finally:
        await services.close()
        await log.close()
