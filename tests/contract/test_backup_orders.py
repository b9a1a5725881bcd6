"""Backups as an agent is ordered to take them: what it does, tells, and ends for a newer order. Its driver is the simulated one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import SystemClock
from libs.common.messages import Envelope, Message, NodeId, Reply, encode
from proto.backups import Definition
from proto.node import CopiesBeat, Heard, OrderBackup, OrderBackupRemoval
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simulated import SimulatedDriver
from services.node.keep import Keep
from services.node.runner import AgentRunner
from tests.contract.driver_rigs import machine_spec

SPEC = machine_spec()
HOUR_US = 3_600_000_000


class Node:
    """facts: of backups; beats: how many copies each named."""

    def __init__(self, folder: Path) -> None:
        self.bus = MemoryBus(Hub())
        self.facts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.beats: asyncio.Queue[CopiesBeat] = asyncio.Queue()
        clock, params = SystemClock(), SimParams(start_us=1000, jitter_us=1, boot_us=1000, backup_us=HOUR_US)
        self.driver = SimulatedDriver(SimHost("n1", params, Random(1)), clock)
        self.agent = AgentRunner(NodeId("n1"), "boot-1", self.driver, Keep(folder / "kept"), self.bus, clock, lambda: (4096, 0.1))

    async def start(self) -> None:
        for service in ("compute", "memory", "io"):
            await self.bus.serve(f"fact.n1.{service}", self._fact)
        await self.bus.serve("tel.n1.copies", self._beat)
        await self.agent.start()
        await self.driver.start(SPEC)

    async def _fact(self, message: Incoming) -> None:
        fact = msgspec.msgpack.decode(msgspec.msgpack.decode(message.data, type=Envelope).data)
        if fact["type"].startswith("report_backup"):
            self.facts.put_nowait(fact)
        await message.respond(encode(Reply(status="accepted")))

    async def _beat(self, message: Incoming) -> None:
        self.beats.put_nowait(msgspec.msgpack.decode(message.data, type=CopiesBeat))

    async def order(self, order: Message) -> Heard:
        return msgspec.msgpack.decode(await self.bus.request("order.n1", encode(order), timeout_s=5), type=Heard)

    async def told(self, type: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            fact = await self.facts.get()
        assert fact["type"] == type, fact
        return fact

    async def beat(self, copies: int) -> CopiesBeat:
        async with asyncio.timeout(10):
            while len((beat := await self.beats.get()).copies) != copies:
                pass
        return beat


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    await made.start()
    yield made
    await made.agent.stop()


def backup(version: int, **more: Any) -> OrderBackup:
    order = OrderBackup(
        vm="web-1", version=version, backup=f"b1-{version}", generation=1, pool="default", disks=SPEC.disks,
        definition=Definition(shape=SPEC.shape, disks=(), nics=()),
    )  # fmt: skip
    return msgspec.structs.replace(order, **more)


async def test_it_tells_of_a_backup_that_goes_on_and_gives_it_up_for_its_removal(node: Node) -> None:
    await node.beat(0)
    assert (await node.order(backup(1))).accepted
    (copy,) = (await node.beat(1)).copies
    assert (copy.vm, copy.what, copy.name, copy.all_mib) == ("web-1", "backup", "b1-1", 256)
    removal = OrderBackupRemoval(vm="web-1", version=2, backup="b1-1", pool="default")
    assert (await node.order(removal)).accepted
    fact = await node.told("report_backup_removed")
    assert (fact["backup"], fact["order_version"], fact["sentence"]) == ("b1-1", 2, "")
    await node.beat(0)
    assert node.driver.host.pool.backups == {} and node.facts.empty()


async def test_one_that_cannot_be_is_told_with_why(node: Node) -> None:
    assert (await node.order(backup(1))).accepted
    await node.beat(1)
    await node.driver.kill("web-1")
    fact = await node.told("report_backup")
    assert (fact["done"], fact["sentence"]) == (None, "given up: web-1 was powered off")
    assert (await node.order(backup(2))).accepted
    assert "generation 1 of web-1 does not run" in (await node.told("report_backup"))["sentence"]


async def test_an_agent_that_ends_leaves_none_half_made(node: Node) -> None:
    assert (await node.order(backup(1))).accepted
    await node.beat(1)
    await node.agent.stop()
    assert node.driver.host.pool.backups == {} and node.facts.empty() and await node.driver.copies() == ()
