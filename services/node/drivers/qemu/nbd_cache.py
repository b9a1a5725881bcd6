"""One export of a QEMU's own NBD server, by which what a disk stands on is copied up into it: nothing of it comes over the socket.

    extents   how deep beneath the disk's own file what is read lies (the context `qemu:allocation-depth`): 0 nowhere, 1 there
    copy_up   NBD_CMD_CACHE: QEMU reads it and keeps it in the disk's own file (copy on read). Many may go on at once, which
              is what makes it faster than a stream job, that reads and writes in turns
    discard   NBD_CMD_TRIM
    flush     NBD_CMD_FLUSH: what QEMU keeps of the file's tables in its memory is written, and all of it is durable

The protocol: NetworkBlockDevice/nbd, doc/proto.md. Numbers are big-endian; offsets and lengths are bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from services.node.drivers import DriverError

DEPTH, STATUS = b"qemu:allocation-depth", b"base:allocation"
ZERO = 2
"""in a status: it reads as zeros"""
HANDSHAKE_S_MAX = 10.0
REPLY_BYTES_MAX = 16 << 20
OWN, BENEATH = 1, 2
"""the depth of the disk's own file; the least depth of what lies in a file beneath"""
_OPTION, _OPTION_REPLY = 0x49484156454F5054, 0x3E889045565A9
_REQUEST, _SIMPLE, _STRUCTURED = 0x25609513, 0x67446698, 0x668E33EF
_FLAGS = 1 | 2
"""fixed newstyle, and no zeros at the end"""
_GO, _STRUCTURED_REPLIES, _SET_CONTEXT = 7, 8, 10
_ACK, _INFO, _CONTEXT, _FAILED = 1, 3, 4, 1 << 31
_FLUSH, _TRIM, _CACHE, _BLOCK_STATUS = 3, 4, 5, 7
_STATUS, _ERROR, _DONE = 5, 1 << 15, 1


class NbdError(DriverError):
    """The connection is of no use, or QEMU refused."""


class Export:
    """Made by `opened`. size: of the disk."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
        self.size = size
        self._reader, self._writer = reader, writer
        self._last = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._parts: dict[int, bytes] = {}
        self._why = ""
        self._task = asyncio.create_task(self._read())

    async def extents(self, at: int, length: int) -> list[tuple[int, int]]:
        """(length, depth, or what else it was opened for), from `at` on, in order. Raises NbdError."""
        found: list[tuple[int, int]] = []
        end = at + length
        while at < end:
            said = await self._ask(_BLOCK_STATUS, at, end - at)
            extents = list(struct.iter_unpack(">II", said[4:]))
            if not extents:
                raise NbdError("QEMU says of no byte where it lies")
            for size, depth in extents:
                found.append((min(size, end - at), depth))
                at += size
        return found

    async def copy_up(self, at: int, length: int) -> None:
        """Returns once it lies in the disk's own file. Raises NbdError."""
        await self._ask(_CACHE, at, length)

    async def discard(self, at: int, length: int) -> None:
        """Raises NbdError."""
        await self._ask(_TRIM, at, length)

    async def flush(self) -> None:
        """Returns once all that was written is durable, the file's tables too. Raises NbdError."""
        await self._ask(_FLUSH, 0, 0)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.close()

    async def _ask(self, kind: int, at: int, length: int) -> bytes:
        if self._why:
            raise NbdError(self._why)
        self._last += 1
        handle = self._last
        reply = self._waiting[handle] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(struct.pack(">IHHQQI", _REQUEST, 0, kind, handle, at, length))
            said: bytes = await reply
            return said
        finally:
            self._waiting.pop(handle, None)
            self._parts.pop(handle, None)

    async def _read(self) -> None:
        why = "the connection was closed"
        try:
            while True:
                await self._reply(struct.unpack(">I", await self._reader.readexactly(4))[0])
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            why = f"QEMU's NBD server: {error}"
        finally:
            self._why = why
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(NbdError(why))

    async def _reply(self, magic: int) -> None:
        if magic == _SIMPLE:
            error, handle = struct.unpack(">IQ", await self._reader.readexactly(12))
            self._done(handle, error)
        elif magic == _STRUCTURED:
            flags, kind, handle, length = struct.unpack(">HHQI", await self._reader.readexactly(16))
            if length > REPLY_BYTES_MAX:
                raise ValueError(f"a reply of {length} bytes")
            data = await self._reader.readexactly(length)
            if kind == _STATUS:
                self._parts[handle] = data
            if kind & _ERROR:
                self._done(handle, struct.unpack_from(">I", data)[0])
            elif flags & _DONE:
                self._done(handle, 0)
        else:
            raise ValueError(f"a reply that begins with {magic:#x}")

    def _done(self, handle: int, error: int) -> None:
        reply = self._waiting.get(handle)
        if reply is None or reply.done():
            return
        if error:
            reply.set_exception(NbdError(f"QEMU could not do it (error {error})"))
        else:
            reply.set_result(self._parts.get(handle, b""))


async def opened(sock: socket.socket, name: str, context: bytes = DEPTH) -> Export:
    """The export of that name; context: what `extents` says. Raises NbdError, OSError."""
    sock.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=REPLY_BYTES_MAX)
    try:
        async with asyncio.timeout(HANDSHAKE_S_MAX):
            return Export(reader, writer, await _greeted(reader, writer, name.encode(), context))
    except (struct.error, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
        writer.close()
        raise NbdError(f"QEMU's NBD server was not understood: {error!r}") from error
    except BaseException:
        writer.close()
        raise


async def _greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: bytes, asked: bytes) -> int:
    """The size of the export."""
    await reader.readexactly(18)
    writer.write(struct.pack(">I", _FLAGS))
    await _option(reader, writer, _STRUCTURED_REPLIES, b"")
    named = struct.pack(">I", len(name)) + name
    context = named + struct.pack(">II", 1, len(asked)) + asked
    if not [kind for kind, _ in await _option(reader, writer, _SET_CONTEXT, context) if kind == _CONTEXT]:
        raise ValueError(f"it does not say {asked.decode()}")
    told = await _option(reader, writer, _GO, named + struct.pack(">H", 0))
    return next(int.from_bytes(data[2:10]) for kind, data in told if kind == _INFO and data[:2] == b"\0\0")


async def _option(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, option: int, data: bytes
) -> list[tuple[int, bytes]]:
    """(kind, data) of each reply before the last."""
    writer.write(struct.pack(">QII", _OPTION, option, len(data)) + data)
    told: list[tuple[int, bytes]] = []
    while True:
        magic, _, kind, length = struct.unpack(">QIII", await reader.readexactly(20))
        if magic != _OPTION_REPLY or length > REPLY_BYTES_MAX:
            raise ValueError(f"a reply that begins with {magic:#x}, of {length} bytes")
        said = await reader.readexactly(length)
        if kind & _FAILED:
            raise ValueError(f"option {option} was refused: {said[:200].decode(errors='replace')}")
        if kind == _ACK:
            return told
        told.append((kind, said))
