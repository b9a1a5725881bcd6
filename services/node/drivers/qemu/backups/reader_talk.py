"""The two channels of a file reader (infra/guest/reader/init): a line is asked, bytes come with a token behind them, a line says
what came of it.

What comes is hostile too: it is bounded, and a sentence is made harmless.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncGenerator

from services.node.drivers import DriverError
from services.node.drivers.backup_files import NotRead

LINE_BYTES_MAX = 64 << 10
CHUNK_BYTES = 256 << 10
SILENCE_S_MAX = 120.0
"""without a byte: a busy host emulates slowly, and a pool may be far"""
SENTENCE_CHARS_MAX = 300
_ANSWER = re.compile(rb"(ok|no)(?: (.*))?\n")


class Broken(DriverError):
    """The reader is of no more use."""


class Talk:
    def __init__(self, control: Stream, data: Stream) -> None:
        self._control, self._data = control, data

    async def ask(self, verb: str, words: str) -> AsyncGenerator[bytes]:
        """All bytes of the answer. Raises NotRead, Broken; it is to be read to its end."""
        token = secrets.token_hex(16).encode() + b"\n"
        self._control.write(f"{verb} {token.decode().strip()} {words}\n".encode())
        answer = asyncio.ensure_future(self._control.line())
        held, said = b"", ""
        try:
            while not (answer.done() and held == token):
                held += await self._next(answer)
                if answer.done():
                    said = _said(answer.result())
                if len(held) > len(token):
                    yield held[: -len(token)]
                    held = held[-len(token) :]
            if said:
                raise NotRead(said)
        finally:
            answer.cancel()

    async def _next(self, answer: asyncio.Future[bytes]) -> bytes:
        """Bytes; none: the answer is there."""
        data = asyncio.ensure_future(self._data.some())
        try:
            waiting: set[asyncio.Future[bytes]] = {data} if answer.done() else {data, answer}
            done, _ = await asyncio.wait(waiting, timeout=SILENCE_S_MAX, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise Broken(f"the file reader has said nothing for {SILENCE_S_MAX:g} s: the file system may be damaged")
            return data.result() if data in done else b""
        finally:
            data.cancel()

    async def small(self, verb: str, words: str, bytes_max: int) -> bytes:
        """The answer, of so many bytes at most. Raises NotRead, Broken."""
        found = bytearray()
        async for chunk in self.ask(verb, words):
            found += chunk
            if len(found) > bytes_max:
                raise Broken(f"the file reader answers with more than {bytes_max} bytes")
        return bytes(found)

    async def ready(self, time_s: float) -> None:
        """It has booted: it answers. Raises Broken, TimeoutError."""
        async with asyncio.timeout(time_s):
            await self.small("parts", "-", LINE_BYTES_MAX)

    def close(self) -> None:
        self._control.close()
        self._data.close()


class Stream:
    """Our end of one channel. Raises Broken once the other one is gone."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._left = bytearray()

    def write(self, data: bytes) -> None:
        """A line: it always has room, as nothing is asked before all was answered."""
        try:
            if self._socket.send(data) != len(data):
                raise Broken("the file reader does not listen")
        except OSError as error:
            raise Broken(f"the file reader ended ({error.strerror})") from error

    async def some(self) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, CHUNK_BYTES)
        except OSError as error:
            raise Broken(f"the file reader ended ({error.strerror})") from error
        if not data:
            raise Broken("the file reader ended: the file system that it read may be damaged")
        return data

    async def line(self) -> bytes:
        while b"\n" not in self._left:
            self._left += await self.some()
            if len(self._left) > LINE_BYTES_MAX:
                raise Broken("the file reader does not come to an end")
        line, _, rest = self._left.partition(b"\n")
        self._left = rest
        return bytes(line) + b"\n"

    def close(self) -> None:
        self._socket.close()


def _said(line: bytes) -> str:
    """Why not; "": it was done. Raises Broken."""
    if (found := _ANSWER.fullmatch(line)) is None:
        raise Broken("the file reader does not answer as it should")
    if found[1] == b"ok":
        return ""
    text = "".join(char if char.isprintable() else "?" for char in (found[2] or b"").decode(errors="replace"))
    return text[:SENTENCE_CHARS_MAX] or "it could not be read"
