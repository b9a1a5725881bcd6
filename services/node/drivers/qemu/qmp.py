"""One monitor socket: send, wait, events. Knows nothing of VMs. QMP is one JSON object a line (QEMU's qmp-spec).

QmpError
  QmpClosed    the other side is gone
  QmpTimeout   no reply within the time; the connection stays usable, a late reply is dropped
  QmpRefused   QEMU answered with an error; `kind` is its class, the text its description
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from libs.common.telemetry import span

LINE_BYTES_MAX = 8 * 1024 * 1024
"""`human-monitor-command` may answer with megabytes; more than this closes the connection."""


class QmpError(Exception): ...


class QmpClosed(QmpError): ...


class QmpTimeout(QmpError): ...


class QmpRefused(QmpError):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class QmpEvent(msgspec.Struct, frozen=True):
    """at_us: the host's clock when QEMU said it."""

    name: str
    data: dict[str, Any]
    at_us: int = 0


class Qmp:
    """A connected monitor. `on_event` is called in the order of arrival, from the event loop; it must not block.
    `closed` is set once the other side is gone."""

    def __init__(self, on_event: Callable[[QmpEvent], None]) -> None:
        self.closed = asyncio.Event()
        self._on_event = on_event
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._ready = False
        self._greeting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._socket: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """The handshake is done and the other side is there."""
        return self._ready and not self.closed.is_set()

    async def connect(self, sock: socket.socket, timeout_s: float = 20.0) -> None:
        """Take over a connected socket and do the handshake. Raises QmpClosed, QmpTimeout."""
        self._socket = sock
        reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES_MAX)
        self._task = asyncio.create_task(self._read(reader))
        try:
            async with asyncio.timeout(timeout_s):
                await self._greeting
        except TimeoutError:
            raise QmpTimeout(f"the monitor did not greet within {timeout_s} s") from None
        await self.execute("qmp_capabilities", timeout_s=timeout_s)
        self._ready = True

    async def execute(self, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = 10.0) -> Any:
        """The value of the reply. Raises QmpError's children. In a trace it is a span; of the arguments, which may be secret,
        nothing is in it."""
        with span(f"qmp {command}"):
            return await self._execute(command, arguments, timeout_s)

    async def give(self, name: str, fd: int, *, timeout_s: float = 10.0) -> None:
        """Hand QEMU a copy of an open file, which it keeps under that name (also when this connection ends). Raises QmpError's
        children, OSError."""
        with span("qmp getfd"):
            await self._execute("getfd", {"fdname": name}, timeout_s, fd)

    async def give_set(self, fd: int, opaque: str, into: int | None = None, *, timeout_s: float = 10.0) -> int:
        """Hand QEMU a copy of an open file, which a block node may open as `/dev/fdset/N`: N. It is opened there as it was opened
        here (for reading, for both, past the cache). opaque: what it is for; into: which N it is to be. Raises QmpError's children,
        OSError."""
        words: dict[str, Any] = {"opaque": opaque} | ({} if into is None else {"fdset-id": into})
        with span("qmp add-fd"):
            found = await self._execute("add-fd", words, timeout_s, fd)
        return int(found["fdset-id"])

    async def _execute(
        self, command: str, arguments: dict[str, Any] | None, timeout_s: float, fd: int | None = None
    ) -> Any:
        if self._writer is None or self._socket is None or self.closed.is_set():
            raise QmpClosed(f"{command}: the monitor is gone")
        self._last_id += 1
        id = self._last_id
        message: dict[str, Any] = {"execute": command, "id": id}
        if arguments:
            message["arguments"] = arguments
        reply = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            data = msgspec.json.encode(message) + b"\n"
            if fd is None:
                self._writer.write(data)
            else:
                # past the stream, which cannot carry files; it holds nothing back, for every command is answered first
                socket.send_fds(self._socket, [data], [fd])
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            raise QmpTimeout(f"{command}: no reply within {timeout_s} s") from None
        finally:
            self._waiting.pop(id, None)

    async def close(self) -> None:
        """Let go of the connection. QEMU does not mind."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._writer is not None:
            self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        why = "the monitor was closed"
        try:
            while line := await reader.readline():
                self._hear(msgspec.json.decode(line, type=dict[str, Any]))
        except (OSError, ValueError, RecursionError) as error:  # readline's overrun is a ValueError
            why = f"the monitor is unusable: {error}"
        finally:
            self.closed.set()
            for waiting in [self._greeting, *self._waiting.values()]:
                if not waiting.done():
                    waiting.set_exception(QmpClosed(why))
            if self._greeting.done() and not self._greeting.cancelled():
                self._greeting.exception()  # read once, so that nobody complains when no one was waiting

    def _hear(self, message: dict[str, Any]) -> None:
        if "event" in message:
            at = message.get("timestamp") or {}
            at_us = int(at.get("seconds", 0)) * 1_000_000 + int(at.get("microseconds", 0))
            self._on_event(QmpEvent(str(message["event"]), message.get("data") or {}, at_us))
        elif "QMP" in message:
            if not self._greeting.done():
                self._greeting.set_result(None)
        elif (waiting := self._waiting.get(message.get("id", 0))) is not None and not waiting.done():
            if "error" in message:
                error = message["error"]
                waiting.set_exception(QmpRefused(str(error.get("class")), str(error.get("desc"))))
            else:
                waiting.set_result(message.get("return"))
