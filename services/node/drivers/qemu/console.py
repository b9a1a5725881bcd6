"""The serial console's hub: always connected, so that what a guest said before anyone looked is there to be read.

It keeps the last RING_BYTES in memory and gives them to whoever attaches, then what follows. A reader that does not read loses
the oldest bytes, never the guest its time. With the agent away QEMU drops the output.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from socket import socket

RING_BYTES = 64 * 1024


class SerialConsole:
    """One attached reader and writer."""

    def __init__(self, hub: SerialHub, past: bytes) -> None:
        self._hub = hub
        self._unread = bytearray(past)
        self._wake = asyncio.Event()
        self._ended = False
        if past:
            self._wake.set()

    async def read(self) -> bytes:
        """What came since the last call, at most RING_BYTES; b'' at the end."""
        await self._wake.wait()
        data = bytes(self._unread)
        self._unread.clear()
        if not self._ended:
            self._wake.clear()
        return data

    async def write(self, data: bytes) -> None:
        """Raises ConnectionError when the console is gone."""
        await self._hub.write(data)

    async def close(self) -> None:
        self._hub.detach(self)
        self.end()

    def hear(self, data: bytes) -> None:
        self._unread += data
        del self._unread[:-RING_BYTES]
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()


class SerialHub:
    def __init__(self) -> None:
        self._ring = bytearray()
        self._consoles: list[SerialConsole] = []
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self, dial: Callable[[], socket]) -> None:
        """Raises OSError. What is connected already is left as it is."""
        if self._task is not None and not self._task.done():
            return
        reader, self._writer = await asyncio.open_unix_connection(sock=dial(), limit=RING_BYTES)
        self._task = asyncio.create_task(self._read(reader))

    def attach(self) -> SerialConsole:
        console = SerialConsole(self, bytes(self._ring))
        self._consoles.append(console)
        return console

    def detach(self, console: SerialConsole) -> None:
        if console in self._consoles:
            self._consoles.remove(console)

    async def write(self, data: bytes) -> None:
        if self._writer is None or self._writer.is_closing():
            raise ConnectionError("the serial console is closed")
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._writer is not None:
            self._writer.close()
        for console in self._consoles:
            console.end()
        self._consoles.clear()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(RING_BYTES):
                self._ring += data
                del self._ring[:-RING_BYTES]
                for console in self._consoles:
                    console.hear(data)
        except OSError:
            pass  # the process ended; its end is seen elsewhere
        for console in self._consoles:
            console.end()
