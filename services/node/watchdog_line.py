"""The agent's end of the line to its node's watchdog (libs/lease/words.py). Dials until somebody answers, and again afterwards."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libs.common.host.tasks import Tasks
from libs.lease import words

log = logging.getLogger(__name__)

AGAIN_S = 0.1
ANSWER_S = 3.0
"""longer than the watchdog itself waits for pools and peers"""
READ_BYTES = 65_536


class NoWatchdog(Exception):
    """It does not answer; the text says so."""


class WatchdogLine:
    """heard: each word that is no answer. `there`: somebody is at the other end. words: how many were ever heard; mute: none for so
    long that nothing is to be expected of it (watchdog_care.py)."""

    def __init__(self, state: Path, heard: Callable[[dict[str, Any]], None]) -> None:
        self._folder = state / words.FOLDER
        self._heard = heard
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._tasks = Tasks()
        self.words = 0
        self.mute = False

    @property
    def there(self) -> bool:
        return self._writer is not None

    def start(self) -> None:
        self._tasks.start(self._keep())

    async def stop(self) -> None:
        await self._tasks.stop()

    def say(self, word: str, **values: Any) -> None:
        """Lost where nobody is there: whoever comes next is told what is true then."""
        if self._writer is not None:
            self._writer.write(words.line(word, **values))

    async def ask(self, word: str, **values: Any) -> dict[str, Any]:
        """The answer. Raises NoWatchdog."""
        if self._writer is None:
            raise NoWatchdog("this node's watchdog is not there")
        if self.mute:
            raise NoWatchdog("this node's watchdog is there and says nothing")
        self._last_id += 1
        id = self._last_id
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[id] = answer
        try:
            self.say(word, id=id, **values)
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            raise NoWatchdog(f"this node's watchdog has not answered within {ANSWER_S:g} s") from None
        finally:
            self._waiting.pop(id, None)

    async def _keep(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(sock=_dialled(self._folder))
                self.say("hello")
                await self._hear(reader)
            except (OSError, words.BadWords) as error:
                log.debug("the watchdog: %s", error)
            finally:
                self._end()
            await asyncio.sleep(AGAIN_S)

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        lines = words.Lines()
        while data := await reader.read(READ_BYTES):
            for word in lines.feed(data):
                self.words += 1
                waiting = self._waiting.get(word.get("id", 0))
                if waiting is not None and not waiting.done():
                    waiting.set_result(word)
                elif "id" not in word:
                    self._heard(word)

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(NoWatchdog("this node's watchdog has ended"))


def _dialled(folder: Path) -> socket.socket:
    """Raises OSError. By way of the folder's descriptor: a long path would be more than the kernel takes."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(f"/proc/self/fd/{handle}/{words.SOCKET}")
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    finally:
        os.close(handle)
    return sock
