"""A database that is restored from a backup under services as real processes: those that run end, those that start fold what is
there, and what was published before is not taken for what is decided now."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from libs.common.bus import BusError
from libs.common.bus.memory import MemoryBus
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from libs.common.host.status import Status
from libs.common.log.memory import MemoryLog
from libs.common.log.migrate import raise_incarnation
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Delivered, decode_delivered
from proto.compute import DefineVm, DeleteVm, JoinNode
from services.gateway.follow import Follower
from tests.contract.control_rig import Control, ask
from tests.servers import NatsServer, Postgres

NAMES = ("compute", "memory", "io", "relay")
_status = msgspec.msgpack.Decoder(Status).decode


@pytest.fixture
async def nats() -> AsyncIterator[NatsServer]:
    with NatsServer() as server:
        yield server


async def followed(bus: NatsBus, position: int) -> dict[str, Status]:
    """Every service's status, once its consumer has come to that position."""
    found: dict[str, Status] = {}
    async with asyncio.timeout(30):
        while len(found) < len(NAMES):
            for name in NAMES:
                with contextlib.suppress(BusError):
                    status = _status(await bus.request(f"query.{name}.status", b"", timeout_s=1.0))
                    if status.position >= position:
                        found[name] = status
            await asyncio.sleep(0.05)
    return found


async def copy(postgres: Postgres, source: str, target: str) -> None:
    """A backup, or its restore: nobody is connected to either."""
    connection = await asyncpg.connect(postgres.dsn())
    try:
        await connection.execute(f'drop database if exists "{target}" with (force)')
        await connection.execute(f'create database "{target}" template "{source}"')
    finally:
        await connection.close()


async def published(bus: NatsBus, last: tuple[int, int]) -> list[Delivered]:
    """All that lies in the bus's stream, up to an (incarnation, position)."""
    feed = await bus.feed("")
    out: list[Delivered] = []
    async with asyncio.timeout(30):
        while not out or (out[-1].incarnation, out[-1].event.position) != last:
            out += map(decode_delivered, await feed.fetch(100, 1.0))
            await feed.ack()
    await feed.close()
    return out


async def test_a_restored_database_is_a_new_life(
    postgres: Postgres, database: str, nats: NatsServer, tmp_path: Path
) -> None:
    dsn, backup = postgres.dsn(database), f"{database}_backup"
    process = Control(NAMES, dsn, nats.url, tmp_path)
    await process.start()
    bus = await NatsBus.connect(nats.url, name="test")
    assert (await ask(bus, "cmd.compute.node-n1", JoinNode(node="n1", key="k"), "join")).position == 1
    assert (await ask(bus, "cmd.compute.vm-a", DefineVm(vm="a"), "a")).position == 2
    await followed(bus, 2)
    assert await process.end(signal.SIGTERM) == 0
    await copy(postgres, database, backup)

    # What the backup does not know: position 3 is given, and published.
    await process.start()
    assert (await ask(bus, "cmd.compute.vm-lost", DefineVm(vm="lost"), "lost")).position == 3
    await followed(bus, 3)

    # The log changes under services that run: they end, and say that it was not their wish.
    await raise_incarnation(dsn)
    assert await process.ended() == 1
    assert "incarnation" in process.log.read_text()

    await copy(postgres, backup, database)
    assert await raise_incarnation(dsn) == 2
    assert await raise_incarnation(dsn) == 3
    await process.start()
    assert (await ask(bus, "cmd.compute.vm-b", DefineVm(vm="b"), "b")).status == "accepted"
    log = await PostgresLog.open(dsn)
    async with asyncio.timeout(30):
        while "incarnation_began" not in {r.type for r in await log.read_all(0)} or (await log.head()).position < 5:
            await asyncio.sleep(0.05)
    events = await log.read_all(0)
    assert [e.position for e in events] == [1, 2, 3, 4, 5]
    assert {e.type for e in events[2:]} == {"vm_defined", "incarnation_began", "node_greeting_requested"}
    assert {s.incarnation for s in (await followed(bus, 5)).values()} == {3}

    # What was published before stays what it was; what is published now says whose it is.
    said = [(d.incarnation, d.event) for d in await published(bus, (3, 5))]
    assert [(n, e.position) for n, e in said if n == 1] == [(1, 1), (1, 2), (1, 3)]
    assert [e for n, e in said if n == 3] == events[-len(said) + 3 :]

    # n1 has not told what it runs: nothing is deleted (or started) before it has.
    refused = await ask(bus, "cmd.compute.vm-a", DeleteVm(vm="a"), "delete")
    assert (refused.reason, "n1" in refused.sentence) == ("RECONCILING", True)
    await log.close()
    assert await process.end(signal.SIGTERM) == 0
    await bus.drain()


async def test_the_gateway_ends_when_the_log_is_another() -> None:
    log, ended = MemoryLog(SystemClock().now_us), asyncio.Event()
    follower = Follower(log, MemoryBus())
    follower.on_fenced = ended.set
    await follower.open()
    log.promote()
    await asyncio.wait_for(ended.wait(), 10)
    assert follower.fenced is not None and follower.ending.is_set()
    await follower.close()
