"""A connection to an NBD server, for what the agent itself reads and writes of an export. Blocking.

    look   whether there is such an export, and how large (NBD_OPT_INFO)
    Line   the export opened (NBD_OPT_GO): read (some ahead), write, flush, trim

The protocol: NetworkBlockDevice/nbd, doc/proto.md. Numbers are big-endian; offsets and lengths are bytes. Simple replies alone are
asked for, and no server has to give any other.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Self

from services.node.drivers.qemu.stores.settings import Nbd

ASK_S_MAX = 5.0
IO_S_MAX = 20.0
"""a request that is not answered by then is not answered"""
REPLY_BYTES_MAX = 64 * 1024
REPLIES_MAX = 64
PIECE, AHEAD = 256 << 10, 16
"""bytes of one request, and how many are asked for before the first is there"""
TRIM_BYTES_MAX = 1 << 30
_GREETING = b"NBDMAGICIHAVEOPT"
_OPT_MAGIC, _REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
_REQUEST, _SIMPLE = 0x25609513, 0x67446698
_FIXED_NEWSTYLE = 1
_OPT_ABORT, _OPT_INFO, _OPT_GO = 2, 6, 7
_ACK, _INFO, _ERROR, _UNKNOWN = 1, 3, 1 << 31, (1 << 31) + 6
_EXPORT = 0
READ_ONLY, _CAN_FLUSH, _CAN_TRIM = 2, 4, 32
_READ, _WRITE, _DISC, _FLUSH, _TRIM = 0, 1, 2, 3, 4


def dial(at: Nbd, timeout_s: float = ASK_S_MAX) -> socket.socket:
    """Raises OSError."""
    if not at.socket:
        return socket.create_connection((at.host, at.port), timeout_s)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout_s)
    try:
        sock.connect(at.socket)
    except OSError:
        sock.close()
        raise
    return sock


def look(sock: socket.socket, export: str) -> tuple[int, int] | None:
    """Size in bytes, and flags, and a good-bye; None: there is no such export. Raises OSError, struct.error."""
    _greeted(sock)
    found = _asked(sock, _OPT_INFO, export)
    if found is not None:
        sock.sendall(_option(_OPT_ABORT, b""))
    return found


class Line:
    """An export that is open. size: in bytes. Raises OSError throughout, struct.error where it is no server."""

    def __init__(self, at: Nbd, export: str, timeout_s: float = ASK_S_MAX) -> None:
        self._sock = dial(at, timeout_s)
        try:
            _greeted(self._sock)
            found = _asked(self._sock, _OPT_GO, export)
            if found is None:
                raise OSError(f"it has no export {export}")
            self.size, self._flags = found
            self._sock.settimeout(max(timeout_s, IO_S_MAX))
        except BaseException:
            self._sock.close()
            raise
        self._last = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        with suppress(OSError):
            self._send(_DISC, 0, 0)
        self._sock.close()

    @property
    def writable(self) -> bool:
        return not self._flags & READ_ONLY

    def read(self, at: int, count: int) -> bytes:
        return b"".join(bytes(part) for part in self.parts(at, count))

    def parts(self, at: int, count: int) -> Iterator[memoryview]:
        """In order, whatever order the server answers in; each is good until the next is asked for."""
        wanted = [(start, min(PIECE, at + count - start)) for start in range(at, at + count, PIECE)]
        buffers = [memoryview(bytearray(PIECE)) for _ in range(min(AHEAD, len(wanted)))]
        flying: dict[int, tuple[int, memoryview]] = {}
        there: set[int] = set()
        sent = 0
        for number, (_, size) in enumerate(wanted):
            while sent < min(len(wanted), number + AHEAD):
                flying[self._send(_READ, *wanted[sent])] = sent, buffers[sent % AHEAD][: wanted[sent][1]]
                sent += 1
            while number not in there:
                which, into = flying.pop(self._answered(flying))
                _into(self._sock, into)
                there.add(which)
            there.remove(number)
            yield buffers[number % AHEAD][:size]

    def write(self, at: int, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            part = data[start : start + PIECE]
            self._done(self._send(_WRITE, at + start, len(part), part))

    def flush(self) -> None:
        """What was written is durable, where the server can say so."""
        if self._flags & _CAN_FLUSH:
            self._done(self._send(_FLUSH, 0, 0))

    def trim(self, at: int, count: int) -> None:
        """What is there is needed no more."""
        if self._flags & _CAN_TRIM and self.writable:
            for start in range(at, at + count, TRIM_BYTES_MAX):
                self._done(self._send(_TRIM, start, min(TRIM_BYTES_MAX, at + count - start)))

    def _send(self, kind: int, at: int, count: int, data: bytes = b"") -> int:
        """The request's handle."""
        self._last += 1
        self._sock.sendall(struct.pack(">IHHQQI", _REQUEST, 0, kind, self._last, at, count) + data)
        return self._last

    def _done(self, handle: int) -> None:
        self._answered((handle,))

    def _answered(self, flying: Collection[int]) -> int:
        """Which of them is."""
        magic, error, handle = struct.unpack(">IIQ", _read(self._sock, 16))
        if magic != _SIMPLE or handle not in flying:
            raise OSError("it answers what is no reply")
        if error:
            raise OSError(error, os.strerror(error))
        return int(handle)


def _greeted(sock: socket.socket) -> None:
    if _read(sock, len(_GREETING)) != _GREETING:
        raise OSError("it speaks another protocol")
    flags = struct.unpack(">H", _read(sock, 2))[0]
    if not flags & _FIXED_NEWSTYLE:
        raise OSError("it speaks an old form of the protocol")
    sock.sendall(struct.pack(">I", _FIXED_NEWSTYLE))


def _asked(sock: socket.socket, option: int, export: str) -> tuple[int, int] | None:
    name = export.encode()
    sock.sendall(_option(option, struct.pack(">I", len(name)) + name + b"\0\0"))
    found: tuple[int, int] | None = None
    for _ in range(REPLIES_MAX):
        magic, _, kind, length = struct.unpack(">QIII", _read(sock, 20))
        if magic != _REPLY_MAGIC or length > REPLY_BYTES_MAX:
            raise OSError("it answers what is no reply")
        body = _read(sock, length)
        if kind == _INFO and len(body) >= 12 and struct.unpack(">H", body[:2])[0] == _EXPORT:
            found = struct.unpack(">QH", body[2:12])
        elif kind == _UNKNOWN:
            return None
        elif kind & _ERROR:
            raise OSError(f"error {kind - _ERROR}: {body.decode('utf-8', 'replace')[:200]}")
        elif kind == _ACK:
            return found
    raise OSError("it does not come to an end")


def _option(option: int, data: bytes) -> bytes:
    return struct.pack(">QII", _OPT_MAGIC, option, len(data)) + data


def _read(sock: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    _into(sock, memoryview(data))
    return bytes(data)


def _into(sock: socket.socket, buffer: memoryview) -> None:
    while buffer:
        count = sock.recv_into(buffer)
        if not count:
            raise OSError("it hung up")
        buffer = buffer[count:]
