"""What an agent makes of its watchdog's words, and of a cluster that does not answer.

A node whose power was away for two seconds: its new boot is clean, and refused as long as the lease of the former is waited out.
It says so until it is believed; said once only, it would never have a lease again. A paused node asks in a hurry, though nobody has
answered what it asked before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import Incoming
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.messages import Fact, NodeId, Reply
from libs.lease import words
from proto.lease import ReportReturned
from services.node.leasing import Leasing
from services.watchdog.app import HURRIES

REFUSED = Reply(status="refused", reason="NOT_LOST", sentence="n1 was not declared lost in epoch 1")
ACCEPTED = Reply(status="accepted")


class Watchdog:
    """The other end of the agent's line."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, state: Path) -> asyncio.Server:
        folder = state / words.FOLDER
        folder.mkdir()
        return await asyncio.start_unix_server(self._met, folder / words.SOCKET)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.say(epoch=1)
        while await reader.read(65_536):
            continue

    def hurry(self) -> None:
        assert self.writer is not None
        self.writer.write(words.line("ask"))

    def say(self, epoch: int, own: str = "ended", clean: bool = True) -> None:
        assert self.writer is not None
        state: dict[str, Any] = {
            "own": own, "epoch": epoch, "term": 1, "at_us": 0, "left_us": 0, "guarded": 0, "doomed": [], "clean": clean,
            "pools": {}, "watch_at": "", "sightings": [], "slow": False, "renews": [], "tolerant": False,
        }  # fmt: skip
        self.writer.write(words.line("state", **state))


class Node:
    """answers: what ha says to one word after the other; None: it does not."""

    def __init__(self, state: Path) -> None:
        self.watchdog = Watchdog()
        self.told: list[ReportReturned] = []
        self.answers: list[Reply | None] = []
        self.hub = Hub()
        self.leasing = Leasing(
            NodeId("n1"), "second", state, MemoryBus(self.hub, name="n1"), self._learn, self._tell, lambda: None
        )

    async def _learn(self, vms: dict[str, int]) -> tuple[str, ...] | None:
        return None

    async def _tell(self, fact: Fact) -> Reply | None:
        assert isinstance(fact, ReportReturned)
        self.told.append(fact)
        return self.answers.pop(0) if self.answers else ACCEPTED


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    found = Node(tmp_path)
    server = await found.watchdog.serve(tmp_path)
    yield found
    await found.leasing.stop()
    server.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_it_is_told_until_it_is_accepted_and_then_no_more(node: Node) -> None:
    node.answers = [REFUSED, None, Reply(status="unavailable")]
    await node.leasing.start()
    await until(lambda: len(node.told) == 4)
    assert {(one.node, one.boot_id, one.epoch) for one in node.told} == {("n1", "second", 1)}
    for _ in range(3):
        node.watchdog.say(epoch=1)
    node.watchdog.say(epoch=2)
    await until(lambda: node.told[-1].epoch == 2)
    assert len(node.told) == 5, "what was accepted is not said again, though the watchdog goes on saying that it is clean"


async def test_one_telling_at_a_time_and_none_of_an_epoch_that_is_past(node: Node) -> None:
    node.answers = [REFUSED] * 100
    await node.leasing.start()
    await until(lambda: len(node.told) == 1)
    for _ in range(20):
        node.watchdog.say(epoch=1)
    await until(lambda: len(node.told) > 2)
    assert len(node.told) == 3
    node.watchdog.say(epoch=2)
    await until(lambda: any(one.epoch == 2 for one in node.told))
    await until(lambda: [one.epoch for one in node.told].count(2) == 3)
    assert [one.epoch for one in node.told[-2:]] == [2, 2]


async def test_a_lease_that_runs_is_not_told_of(node: Node) -> None:
    await node.leasing.start()
    await until(lambda: len(node.told) == 1)
    node.watchdog.say(epoch=2, own="held", clean=False)
    node.watchdog.say(epoch=3, own="ended", clean=False)
    node.watchdog.say(epoch=4)
    await until(lambda: node.told[-1].epoch == 4)
    assert [one.epoch for one in node.told] == [1, 4]


async def test_two_seconds_of_questions_that_nobody_answers_keep_it_from_asking_no_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.node.leasing.GRANT_S_MAX", 60.0)  # none is given up meanwhile
    asked: list[Incoming] = []

    async def silent(message: Incoming) -> None:
        asked.append(message)

    await MemoryBus(node.hub, name="control").serve("lease.n1", silent)
    await node.leasing.start()
    node.watchdog.say(epoch=1, own="paused", clean=False)
    for so_far in range(2 * HURRIES):
        await until(lambda least=so_far: len(asked) > least)  # type: ignore[misc]
        node.watchdog.hurry()
