"""The supervisor's control socket: one line of words in, lines of JSON out, the last one with `done`.

watch          progress until the cluster is healthy or has failed to become so
stop           the supervisor ends everything; the connection closes when it is gone itself
lab VERB NODE [all], lab stall NODE SECONDS  see lab.py
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from services.cluster.layout import Layout
from services.cluster.record import Record

_log = logging.getLogger(__name__)

LINE_BYTES_MAX = 4096
SAID_MAX = 500
_NAME = "control"


class Said(msgspec.Struct, omit_defaults=True):
    """One line to a client. ok counts with done."""

    text: str = ""
    done: bool = False
    ok: bool = True


class Control:
    """Progress is remembered, so that a watcher who comes late hears it from the start."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._server: asyncio.Server | None = None
        self._said: list[Said] = []
        self._more = asyncio.Condition()
        self._states: dict[str, str] = {}
        self._wakes: set[asyncio.Task[None]] = set()

    async def open(self, answer: Callable[[list[str]], Awaitable[str]]) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, ValueError):
                await self._serve(reader, writer, answer)
            writer.close()

        with _short(self._layout) as path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108  (a path through a descriptor)
            raw = socket.socket(socket.AF_UNIX)
            raw.bind(path)
            os.chmod(path, 0o600)  # noqa: PTH101
        self._server = await asyncio.start_unix_server(serve, sock=raw, limit=LINE_BYTES_MAX)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        (self._layout.run / _NAME).unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """Progress, for people."""
        _log.info("%s", text)
        self._add(Said(text))

    def settle(self, ok: bool, text: str) -> None:
        """The way up has come to its end."""
        _log.info("%s", text)
        self._add(Said(text, done=True, ok=ok))

    def tell(self, record: Record) -> None:
        """Says what is new in the children's states."""
        for name, child in record.children.items():
            if self._states.get(name, "stopped") != child.state:
                self._states[name] = child.state
                self.say(f"{name}: {child.state}" + (f" ({child.sentence})" if child.state == "waiting" else ""))

    def _add(self, said: Said) -> None:
        if len(self._said) < SAID_MAX or said.done:
            self._said.append(said)
        task = asyncio.get_running_loop().create_task(self._wake())
        self._wakes.add(task)
        task.add_done_callback(self._wakes.discard)

    async def _wake(self) -> None:
        async with self._more:
            self._more.notify_all()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[list[str]], Awaitable[str]]
    ) -> None:
        words = shlex.split((await reader.readline()).decode())
        if words == ["watch"]:
            await self._watched(writer)
            return
        try:
            said = Said(await answer(words), done=True)
        except ValueError as error:
            said = Said(str(error), done=True, ok=False)
        await _send(writer, said)
        if words == ["stop"]:
            await reader.read()  # the client waits for our end, by the connection's

    async def _watched(self, writer: asyncio.StreamWriter) -> None:
        told = 0
        while True:
            async with self._more:
                while len(self._said) <= told:
                    await self._more.wait()
            for said in self._said[told:]:
                told += 1
                await _send(writer, said)
                if said.done:
                    return


async def _send(writer: asyncio.StreamWriter, said: Said) -> None:
    writer.write(msgspec.json.encode(said) + b"\n")
    await writer.drain()


@contextlib.contextmanager
def _short(layout: Layout) -> Iterator[str]:
    """The socket's path by way of its folder's descriptor: a long home would make it too long for the kernel."""
    folder = os.open(layout.run, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{_NAME}"
    finally:
        os.close(folder)


def ask(layout: Layout, *words: str) -> Iterator[Said]:
    """A client: sends one request, yields what is said until it is done or the supervisor is gone. Raises OSError where
    none runs."""
    with socket.socket(socket.AF_UNIX) as raw, _short(layout) as path:
        raw.connect(path)
        raw.sendall((shlex.join(words) + "\n").encode())
        with raw.makefile("rb") as lines:
            for line in lines:
                said = msgspec.json.decode(line, type=Said)
                yield said
                if said.done:
                    return
