"""`ask.<node>.files` and `.files-next`: what is in a backup. Never recorded here: who asks has recorded it, and that holds the
backup until a time, after which nothing of it is open here any more.

A reader is kept for a minute after it was last asked, as folders are looked at one after the other. Whoever takes something out
pulls it, piece by piece: nothing is read ahead of them, and who pulls no more is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.clock import Clock
from libs.common.messages import NodeId, encode
from proto.backup_files import AskFiles, AskFilesNext, FilesAnswer, FilesChunk
from services.node.drivers import Driver, DriverError
from services.node.drivers.backup_files import BackupFiles, NotRead

log = logging.getLogger(__name__)

READERS_MAX = 3
"""each is a small machine: some 400 MiB, and a core while it works"""
IDLE_S = 60.0
LOOK_S = 1.0
CHUNK_BYTES = 512 << 10
"""of one answer: half of what the bus takes"""

ANSWER_BYTES_MAX = 960 << 10
"""the bus takes 1 MiB"""

type Key = tuple[str, str, str]

_ask = msgspec.msgpack.Decoder(AskFiles).decode
_next = msgspec.msgpack.Decoder(AskFilesNext).decode


@dataclass(slots=True)
class _Open:
    """used_s: when it was last asked, by a clock that only goes on; asked: questions that it is answering, taking included."""

    key: Key
    reader: BackupFiles
    until_us: int
    used_s: float
    asked: int = 1


@dataclass(slots=True)
class _Take:
    open: _Open
    content: AsyncGenerator[bytes]
    pulled_s: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class FileAsks:
    def __init__(self, node: NodeId, driver: Driver, bus: Bus, clock: Clock) -> None:
        self._node, self._driver, self._bus, self._clock = node, driver, bus, clock
        self._open: list[_Open] = []
        self._opening = 0
        self._takes: dict[str, _Take] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self._node}.files", self._on_files)
        await self._bus.serve(f"ask.{self._node}.files-next", self._on_next)
        self._task = asyncio.create_task(self._tidy(), name="files of backups")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for one in list(self._open):
            await self._close(one)

    # --- questions ----------------------------------------------------------------------------------------------------

    async def _on_files(self, message: Incoming) -> None:
        try:
            answer = await self._answer(_ask(message.data))
        except NotRead as no:
            answer = FilesAnswer(error=str(no))
        except DriverError as error:
            answer = FilesAnswer(error=str(error) or type(error).__name__, gone=True)
        except msgspec.MsgspecError as bad:
            answer = FilesAnswer(error=f"not a question: {bad}")
        data = encode(answer)
        if len(data) > ANSWER_BYTES_MAX:
            said = f"the names of its {len(answer.entries)} files are too long to be listed at once: take it whole"
            data = encode(FilesAnswer(error=said))
        await message.respond(data)

    async def _answer(self, ask: AskFiles) -> FilesAnswer:
        """Raises DriverError."""
        if self._clock.now_us() >= ask.until_us:
            raise DriverError(f"the time in which {ask.backup} is held for this is over, by the clock of {self._node}")
        one = await self._reader(ask)
        try:
            if ask.take is None:
                return FilesAnswer(entries=await one.reader.list(ask.path))
            what = await one.reader.what(ask.path)
            if ask.take not in self._takes:
                self._takes[ask.take] = _Take(one, one.reader.content(ask.path, what), self._clock.monotonic())
                one.asked += 1
            return FilesAnswer(kind=what.kind, bytes=what.bytes)
        finally:
            await self._asked(one)

    async def _on_next(self, message: Incoming) -> None:
        try:
            ask = _next(message.data)
            answer = await self._next(ask)
        except DriverError as error:
            answer = FilesChunk(error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            answer = FilesChunk(error=f"not a question: {bad}")
        await message.respond(encode(answer))

    async def _next(self, ask: AskFilesNext) -> FilesChunk:
        """Raises DriverError."""
        take = self._takes.get(ask.take)
        if take is None:
            raise DriverError(f"{self._node} knows nothing of {ask.take} (any more)")
        if ask.give_up:
            await self._give_up(ask.take)
            return FilesChunk()
        async with take.turn:
            data = bytearray()
            try:
                async for chunk in take.content:
                    data += chunk
                    if len(data) >= CHUNK_BYTES:
                        break
                else:
                    if not data:
                        await self._give_up(ask.take)
            except DriverError:
                await self._give_up(ask.take)
                raise
            finally:
                take.pulled_s = self._clock.monotonic()
            return FilesChunk(data=bytes(data))

    # --- readers ------------------------------------------------------------------------------------------------------

    async def _reader(self, ask: AskFiles) -> _Open:
        """One that answers nobody else. Raises DriverError."""
        key = (ask.pool, ask.vm, ask.backup)
        found = next((one for one in self._open if one.key == key and not one.asked and one.reader.is_of_use), None)
        if found is not None:
            found.asked, found.until_us = 1, max(found.until_us, ask.until_us)
            return found
        if len(self._open) + self._opening >= READERS_MAX and not await self._made_room():
            raise DriverError(f"{READERS_MAX} backups are read on {self._node} right now: wait until one of them is done")
        self._opening += 1
        try:
            reader = await self._driver.open_backup(ask.pool, ask.vm, ask.backup)
        finally:
            self._opening -= 1
        self._open.append(one := _Open(key, reader, ask.until_us, self._clock.monotonic()))
        return one

    async def _made_room(self) -> bool:
        idle = min((one for one in self._open if not one.asked), key=lambda one: one.used_s, default=None)
        if idle is not None:
            await self._close(idle)
        return idle is not None

    async def _asked(self, one: _Open) -> None:
        one.asked, one.used_s = one.asked - 1, self._clock.monotonic()
        if not one.reader.is_of_use:
            await self._close(one)

    async def _give_up(self, name: str) -> None:
        take = self._takes.pop(name, None)
        if take is not None:
            with suppress(DriverError, RuntimeError):  # one that is being pulled right now ends with its reader
                await take.content.aclose()
            await self._asked(take.open)

    async def _close(self, one: _Open) -> None:
        if one in self._open:
            self._open.remove(one)
            await one.reader.close()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._tidied()
            except DriverError as error:
                log.warning("a file reader was not closed: %s", error)

    async def _tidied(self) -> None:
        now_s, now_us = self._clock.monotonic(), self._clock.now_us()
        for name, take in list(self._takes.items()):
            if not take.turn.locked() and now_s - take.pulled_s > IDLE_S:
                await self._give_up(name)
        for one in list(self._open):
            if now_us >= one.until_us or not one.reader.is_of_use or (not one.asked and now_s - one.used_s > IDLE_S):
                await self._close(one)
