"""An agent is asked for files of backups: who is answered, how many at once, and what ends when."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest

from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import ManualClock
from libs.common.messages import NodeId, encode
from proto.backup_files import AskFiles, AskFilesNext, FileEntry, FileKind, FilesAnswer, FilesChunk
from services.node import file_asks
from services.node.drivers import DriverError
from services.node.drivers.backup_files import NotRead, What
from services.node.file_asks import CHUNK_BYTES, IDLE_S, READERS_MAX, FileAsks

PIECE = b"x" * 1000
PIECES = 2 * CHUNK_BYTES // len(PIECE)


def pieces(path: str) -> int:
    return PIECES if path != "/endless" else 1 << 40


class Files:
    """Each path is a file of PIECES pieces; `/none` is not there, `/torn` breaks on the way, `/endless` never
    ends."""

    def __init__(self) -> None:
        self.is_of_use = True
        self.closed = 0
        self.pulled = 0

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        if path == "/none":
            raise NotRead("there is no such file")
        if path == "/lost":
            self.is_of_use = False
            raise DriverError("the reader ended")
        count = 5000 if path == "/many" else 1
        return (FileEntry(name="f" * (255 if count > 1 else 1), kind=FileKind.FILE, bytes=3),) * count

    async def what(self, path: str) -> What:
        return What(FileKind.FILE, pieces(path) * len(PIECE))

    async def content(self, path: str, what: What) -> AsyncGenerator[bytes]:
        whole = False
        try:
            for _ in range(pieces(path)):
                self.pulled += 1
                yield PIECE
                if path == "/torn":
                    raise DriverError("the reader ended")
            whole = True
        finally:
            self.is_of_use &= whole

    async def close(self) -> None:
        self.closed += 1
        self.is_of_use = False


class Backups:
    """As much of a driver as is asked for."""

    def __init__(self) -> None:
        self.opened: list[Files] = []

    async def open_backup(self, pool: str, vm: str, backup: str) -> Files:
        if backup == "b9-9":
            raise DriverError("it is not there")
        self.opened.append(Files())
        return self.opened[-1]


class Rig:
    def __init__(self) -> None:
        self.clock, self.driver, self.bus = ManualClock(), Backups(), MemoryBus(Hub())
        driver: Any = self.driver
        self.asks = FileAsks(NodeId("n1"), driver, self.bus, self.clock)

    async def ask(self, path: str = "/", *, take: str | None = None, backup: str = "b1-1", hold_s: float = 1e6) -> FilesAnswer:
        until_us = self.clock.now_us() + round(hold_s * 1e6)
        ask = AskFiles(vm="a", backup=backup, pool="safe", path=path, until_us=until_us, take=take)
        return msgspec.msgpack.decode(await self.bus.request("ask.n1.files", encode(ask)), type=FilesAnswer)

    async def next(self, take: str, *, give_up: bool = False) -> FilesChunk:
        ask = AskFilesNext(take=take, give_up=give_up)
        return msgspec.msgpack.decode(await self.bus.request("ask.n1.files-next", encode(ask)), type=FilesChunk)

    async def passed(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.asks._tidied()

    def open(self) -> int:
        return sum(not one.closed for one in self.driver.opened)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(file_asks, "LOOK_S", 3600.0)  # it is looked at when a test says so
    made = Rig()
    await made.asks.start()
    yield made
    await made.asks.stop()
    assert made.open() == 0


async def test_a_reader_is_kept_for_who_looks_on_and_no_longer(rig: Rig) -> None:
    assert (await rig.ask()).entries == (FileEntry(name="f", kind=FileKind.FILE, bytes=3),)
    await rig.passed(IDLE_S - 1)
    assert (await rig.ask("/none")).error == "there is no such file" and len(rig.driver.opened) == 1
    await rig.passed(IDLE_S - 1)
    assert rig.open() == 1
    await rig.passed(2)
    assert rig.open() == 0


async def test_nothing_is_open_once_the_backup_is_held_no_more(rig: Rig) -> None:
    assert (await rig.ask("/f", take="f1-1", hold_s=30)).bytes == PIECES * len(PIECE)
    assert (await rig.next("f1-1")).data
    await rig.passed(29)
    assert rig.open() == 1
    await rig.passed(1)
    assert rig.open() == 0
    late = await rig.ask(hold_s=0)
    assert late.gone and "by the clock of n1" in late.error and len(rig.driver.opened) == 1


async def test_what_is_taken_is_pulled_and_no_more_is_read_than_is_asked_for(rig: Rig) -> None:
    await rig.ask("/f", take="f1-1")
    assert rig.driver.opened[0].pulled == 0
    first = (await rig.next("f1-1")).data
    assert CHUNK_BYTES <= len(first) < CHUNK_BYTES + len(PIECE)
    assert rig.driver.opened[0].pulled == len(first) // len(PIECE)
    whole = first
    while data := (await rig.next("f1-1")).data:
        whole += data
    assert whole == PIECE * PIECES
    assert "knows nothing of f1-1" in (await rig.next("f1-1")).error
    await rig.ask()
    assert len(rig.driver.opened) == 1 and rig.open() == 1, "it is of use for the next"


async def test_whoever_goes_away_is_given_up(rig: Rig) -> None:
    await rig.ask("/f", take="f1-1")
    await rig.next("f1-1")
    assert (await rig.next("f1-1", give_up=True)) == FilesChunk()
    assert rig.open() == 0, "what is still to come would be taken for another's"
    await rig.ask("/f", take="f1-2")
    await rig.next("f1-2")
    await rig.passed(IDLE_S + 1)
    assert rig.open() == 0 and "knows nothing" in (await rig.next("f1-2")).error


async def test_a_reader_that_breaks_is_closed_and_the_next_has_another(rig: Rig) -> None:
    await rig.ask("/torn", take="f1-1")
    assert (await rig.next("f1-1")).error == "the reader ended"
    assert rig.open() == 0
    lost = await rig.ask("/lost")
    assert (lost.error, lost.gone, rig.open()) == ("the reader ended", True, 0)
    assert (await rig.ask()).entries and rig.open() == 1


async def test_so_many_are_read_at_once_and_who_is_idle_makes_room(rig: Rig) -> None:
    for n in range(READERS_MAX):
        await rig.ask("/f", take=f"f1-{n}")
    full = await rig.ask()
    assert full.gone and f"{READERS_MAX} backups are read" in full.error and rig.open() == READERS_MAX
    await rig.next("f1-0", give_up=True)
    assert (await rig.ask()).entries and rig.open() == READERS_MAX
    assert (await rig.ask(backup="b1-2")).entries and rig.open() == READERS_MAX, "the idle one left"


async def test_what_the_bus_does_not_take_is_told(rig: Rig) -> None:
    many = await rig.ask("/many")
    assert "its 5000 files are too long" in many.error and not many.gone and not many.entries
    assert (await rig.ask()).entries and len(rig.driver.opened) == 1


async def test_what_cannot_be_opened_takes_no_place(rig: Rig) -> None:
    for _ in range(READERS_MAX + 1):
        assert (await rig.ask(backup="b9-9")).error == "it is not there"
    assert (await rig.ask()).entries
