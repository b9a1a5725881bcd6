"""A line that can be cut: a TCP relay between one agent and NATS, run by the supervisor.

Each agent of an embedded cluster reaches NATS through a port of its own. `lab cut` closes that port and resets what runs through
it, as a pulled cable would; `lab heal` opens it again. No firewall and no root are needed for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

from services.cluster.ports import LOOPBACK

CHUNK_BYTES = 256 * 1024
LINES_MAX = 64
"""connections through one relay at a time; an agent has one or two"""
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER, on, zero seconds: close() sends RST


class Line:
    """One relay. `port` stays the same over cut and heal."""

    def __init__(self, port: int, target: int, listening: Callable[[int], socket.socket] | None = None) -> None:
        """listening: makes the socket for that port; none: of the loopback address."""
        self.port = port
        self._target = target
        self._listening = listening or _loopback
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def heal(self) -> None:
        """Opens the port; nothing happens where it is open."""
        if self._server is None:
            self._server = await asyncio.start_server(self._carry, sock=self._listening(self.port))

    async def cut(self) -> None:
        """Closes the port and resets all connections through it."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._writers):
            with contextlib.suppress(OSError):
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _carry(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        if len(self._writers) >= 2 * LINES_MAX:
            to_near.close()
            return
        try:
            far, to_far = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            to_near.close()
            return
        if self._server is None:  # cut while we dialled
            to_far.close()
            to_near.close()
            return
        ends = {to_near, to_far}
        self._writers |= ends
        pumps = [asyncio.create_task(_pump(near, to_far)), asyncio.create_task(_pump(far, to_near))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers -= ends
            for writer in ends:
                writer.close()


def _loopback(port: int) -> socket.socket:
    heard = socket.create_server((LOOPBACK, port), backlog=LINES_MAX)
    heard.setblocking(False)
    return heard


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carries bytes until one side ends. Drain bounds what waits here to the stream's own buffer."""
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
