"""Files out of a backup over HTTP: what comes, what is told where it is cut off, and that both ends hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from libs.common.bus.memory import MemoryBus
from libs.common.messages import NodeId, encode
from proto.backup_files import (
    AskFilesNext,
    BackupFilesRead,
    BackupReadEnded,
    EndBackupRead,
    FilesChunk,
    ReadBackupFiles,
)
from services.node.file_asks import FileAsks
from tests.contract.gateway_rig import Rig, problem
from tests.contract.test_file_asks import PIECE, PIECES, Backups
from tests.contract.test_gateway_backups import back_up
from tests.model.protected_story import N1, A

URL = "/v1/vms/a/backups/b1-3/files"
CONTENT = f"{URL}/content?path=/disk0/big"


class Node:
    """n1's, with as much of a driver as is asked for."""

    def __init__(self, world: Rig) -> None:
        self.world, self.backups, self.bus = world, Backups(), MemoryBus(world.hub)
        driver: Any = self.backups
        self.asks = FileAsks(NodeId("n1"), driver, self.bus, world.clock)
        self.reads = 0
        world.io.rules[ReadBackupFiles] = self.read
        world.io.rules[EndBackupRead] = lambda end: [
            BackupReadEnded(vm=A, backup="b1-3", read=end.read, bytes=end.bytes, whole=end.whole, sentence=end.sentence)
        ]

    def read(self, asked: ReadBackupFiles) -> list[BackupFilesRead]:
        self.reads += 1
        now_us = self.world.clock.now_us()
        return [
            BackupFilesRead(
                vm=A, backup=asked.backup, read=f"f1-{self.reads}", node=N1, pool="safe", path=asked.path, take=asked.take,
                at_us=now_us, until_us=now_us + 60_000_000,
            )
        ]  # fmt: skip

    async def ended(self) -> EndBackupRead:
        async with asyncio.timeout(10):
            while True:
                for _, command in self.world.io.heard:
                    if isinstance(command, EndBackupRead):
                        return command
                await asyncio.sleep(0.01)

    async def asks_next(self, take: str) -> FilesChunk:
        return msgspec.msgpack.decode(
            await self.world.bus.request("ask.n1.files-next", encode(AskFilesNext(take=take))), type=FilesChunk
        )

    async def closed(self) -> None:
        async with asyncio.timeout(10):
            while not all(one.closed for one in self.backups.opened):
                await asyncio.sleep(0.01)


@pytest.fixture
async def node(world: Rig) -> AsyncIterator[Node]:
    await back_up(world)
    made = Node(world)
    await made.asks.start()
    yield made
    await made.asks.stop()


async def test_a_folder_is_listed_once_it_is_recorded_who_asks(world: Rig, node: Node) -> None:
    client = await world.client("operator")
    answer = (await client.get(f"{URL}?path=/disk0/a%20b")).json()
    ((envelope, command),) = world.io.heard
    assert command == ReadBackupFiles(vm="a", backup="b1-3", path="/disk0/a b") and envelope.actor == "user:operator-1"
    assert (answer["read"], answer["items"][0]["name"], answer["items"][0]["modified_s"]) == ("f1-1", "f", 0)
    problem(await client.get(f"{URL}?path=/none"), 409, "NOT_READ")
    problem(await client.get(f"{URL}?path=/{'x' * 5000}"), 400)
    problem(await client.get("/v1/vms/a/backups/b1-9/files"), 404, "BACKUP_UNKNOWN")
    assert node.reads == 2, "what there is not is not asked for"


async def test_nothing_is_read_that_is_not_recorded(world: Rig, node: Node) -> None:
    client = await world.client("operator")
    world.io.rules[ReadBackupFiles] = lambda command: None
    problem(await client.get(CONTENT), 503)
    problem(await (await world.client("viewer")).get(CONTENT), 403)
    problem(await client.get(f"{URL}?at=1"), 409)
    assert node.backups.opened == []


async def test_a_file_comes_whole_and_how_much_it_was_is_recorded(world: Rig, node: Node) -> None:
    client = await world.client("operator")
    answer = await client.get(CONTENT)
    assert answer.content == PIECE * PIECES and int(answer.headers["content-length"]) == len(answer.content)
    assert (answer.headers["asv-file-kind"], answer.headers["x-content-type-options"]) == ("file", "nosniff")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert await node.ended() == EndBackupRead(vm="a", read="f1-1", bytes=PIECES * len(PIECE))
    assert not node.backups.opened[0].closed, "it was read to its end, and is of use for the next"
    shown = (await client.get("/v1/vms/a/backups/b1-3")).json()["reads"]
    assert [(one["by"], one["path"], one["whole"]) for one in shown] == [("user:operator-1", "/disk0/big", True)]
    assert (await client.get("/v1/vms/a/backups/b1-1")).json()["reads"] == []


async def test_a_node_that_dies_meanwhile_gives_no_file_that_looks_whole(world: Rig, node: Node) -> None:
    client = await world.client("operator")
    with pytest.raises(httpx.RemoteProtocolError):
        async with client.stream("GET", f"{URL}/content?path=/endless") as answer:
            async for _ in answer.aiter_raw():
                await node.bus.drain()
    end = await node.ended()
    assert not end.whole and "does not run just now" in end.sentence and end.bytes


async def test_a_reader_that_breaks_meanwhile_does_neither(world: Rig, node: Node) -> None:
    client = await world.client("operator")
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(f"{URL}/content?path=/torn")
    assert (await node.ended()).sentence == "the reader ended"
    await node.closed()


async def test_whoever_goes_away_is_seen_to_have_gone_and_nothing_is_read_on(world: Rig, node: Node) -> None:
    client = await world.client("operator")
    async with client.stream("GET", f"{URL}/content?path=/endless") as answer:
        await anext(answer.aiter_raw(10))
    end = await node.ended()
    assert (end.whole, end.sentence) == (False, "whoever took it went away") and end.bytes
    await node.closed()
    pulled = node.backups.opened[0].pulled
    assert "knows nothing" in (await node.asks_next("f1-1")).error and node.backups.opened[0].pulled == pulled


async def test_what_takes_longer_than_it_is_held_for_is_cut_off(world: Rig, node: Node) -> None:
    client = await world.client("operator")
    held = node.read

    def short(asked: ReadBackupFiles) -> list[BackupFilesRead]:
        (event,) = held(asked)
        return [msgspec.structs.replace(event, until_us=event.at_us)]

    world.io.rules[ReadBackupFiles] = short
    problem(await client.get(CONTENT), 503)
    assert "the time in which b1-3 is held" in (await node.ended()).sentence
