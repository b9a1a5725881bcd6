"""A log, or a slice of one, as a file: `NAME.aslog`.

    "asv.log\\n"                       eight bytes
    gzip of frames                    each: kind (one byte), length (four, big-endian), msgpack
        H   Header                    once, first
        E   [Recorded, …]             events by position, at most ROWS_MAX to a frame
        C   [Decided, …]              recorded commands by position, those that wrote nothing last (position 0)
    sha256 of all bytes before        32 bytes: a torn or changed file is noticed before anything of it is believed

    BadAslog(LogError)    not such a file, torn, or of a format that only a later release reads
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import batched, pairwise
from pathlib import Path

import msgspec

from libs.common.log import Eventless, Head, LogError
from libs.common.messages import Recorded
from libs.past.source import Decided

MAGIC = b"asv.log\n"
FORMAT = 1
ROWS_MAX = 2048
DIGEST_BYTES = 32
FRAME_BYTES_MAX = 256 << 20
ENDING = ".aslog"


class BadAslog(LogError):
    """Nothing of the file may be believed."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """incarnation, first, last, at_us: of the log it is from; at_us: when its last event was written. whole: every position from
    first to last is there; else it is a slice of some streams. anonymized: names are not those of the log. protocol: the log was
    finalized at it. note: a sentence of whoever made it.
    since: of a slice: what it is about begins here, and what lies before was needed for it; was_first, was_last: between which
    positions of its log that lay; 0: not recorded. Positions of a slice are its own (libs/past/slices)."""

    format: int = FORMAT
    incarnation: int
    first: int
    last: int
    at_us: int
    events: int
    commands: int
    whole: bool
    protocol: int = 1
    anonymized: bool = False
    note: str = ""
    since: int = 0
    was_first: int = 0
    was_last: int = 0


class Aslog(msgspec.Struct, frozen=True):
    """All that is in a file."""

    header: Header
    events: tuple[Recorded, ...]
    commands: tuple[Decided, ...]


def aslog(
    events: Sequence[Recorded], commands: Sequence[Decided], incarnation: int, *, protocol: int = 1, note: str = "",
    anonymized: bool = False,
) -> Aslog:  # fmt: skip
    """Raises ValueError where the events are not in order."""
    positions = [event.position for event in events]
    if any(a >= b for a, b in pairwise(positions)):
        raise ValueError("events come by position, each once")
    first, last = (positions[0], positions[-1]) if positions else (0, 0)
    header = Header(
        incarnation=incarnation, first=first, last=last, at_us=events[-1].at_us if events else 0, events=len(events),
        commands=len(commands), whole=len(events) == last - first + 1, protocol=protocol, anonymized=anonymized, note=note,
    )  # fmt: skip
    ordered = sorted(commands, key=lambda one: (one.position == 0, one.position, one.at_us, one.id))
    return Aslog(header, tuple(events), tuple(ordered))


def write(path: Path, content: Aslog) -> None:
    """Whole or not at all: an older file of that name stays until the new one is on disk. Raises OSError."""
    data = packed(content)
    made, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(made, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def packed(content: Aslog) -> bytes:
    """The same bytes for the same content."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as body:
        for kind, rows in _frames(content):
            packed = msgspec.msgpack.encode(rows)
            body.write(kind + len(packed).to_bytes(4) + packed)
    data = MAGIC + out.getvalue()
    return data + hashlib.sha256(data).digest()


def _frames(content: Aslog) -> Iterator[tuple[bytes, object]]:
    yield b"H", content.header
    for events in batched(content.events, ROWS_MAX):
        yield b"E", events
    for commands in batched(content.commands, ROWS_MAX):
        yield b"C", [msgspec.structs.astuple(command) for command in commands]


def read(path: Path) -> Aslog:
    """Raises BadAslog, OSError."""
    return unpacked(path.read_bytes(), str(path))


_header = msgspec.msgpack.Decoder(Header).decode
_events = msgspec.msgpack.Decoder(list[Recorded]).decode
_commands = msgspec.msgpack.Decoder(list[tuple[int, int, str, str, bytes, bytes]]).decode


def unpacked(data: bytes, name: str) -> Aslog:
    """What `packed` gave. Raises BadAslog, which names the file."""
    if not data.startswith(MAGIC):
        raise BadAslog(f"{name} is no log: it does not begin with {MAGIC!r}")
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise BadAslog(f"{name} is torn or was changed: its {len(data)} bytes are not those that its digest was made of")
    try:
        return _content(gzip.decompress(body[len(MAGIC) :]), name)
    except (msgspec.MsgspecError, OSError, EOFError) as error:
        raise BadAslog(f"{name} cannot be read: {error}") from error


def _content(frames: bytes, name: str) -> Aslog:
    header: Header | None = None
    events: list[Recorded] = []
    commands: list[Decided] = []
    for kind, part in _parts(frames, name):
        if header is None:
            header = _checked(kind, part, name)
        elif kind == b"E":
            events += _events(part)
        elif kind == b"C":
            commands += [Decided(*row) for row in _commands(part)]
        else:
            raise BadAslog(f"{name} has a frame of kind {kind!r}: H, E and C are known")
    if header is None or (header.events, header.commands) != (len(events), len(commands)):
        raise BadAslog(f"{name} does not hold what its header says")
    return Aslog(header, tuple(events), tuple(commands))


def _checked(kind: bytes, part: bytes, name: str) -> Header:
    if kind != b"H":
        raise BadAslog(f"{name} has no header")
    format = msgspec.msgpack.decode(part, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"\x00"))
    if (number := msgspec.msgpack.decode(format, type=int)) != FORMAT:
        raise BadAslog(f"{name} has format {number}, this release reads {FORMAT}: use the release that wrote it, or a later one")
    return _header(part)


def _parts(frames: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(frames):
        kind, length = frames[at : at + 1], int.from_bytes(frames[at + 1 : at + 5])
        at += 5 + length
        if length > FRAME_BYTES_MAX or at > len(frames):
            raise BadAslog(f"{name} ends within a frame")
        yield kind, frames[at - length : at]


class AslogPast:
    """See Past: a file, held in memory whole. Positions are those of the log it is from; a slice has holes."""

    def __init__(self, content: Aslog) -> None:
        self._content = content

    @classmethod
    def open(cls, path: Path) -> AslogPast:
        """Raises BadAslog; LogError where the file cannot be had."""
        try:
            return cls(read(path))
        except OSError as error:
            raise LogError(f"{path} cannot be read: {error}") from error

    @property
    def whole(self) -> bool:
        """Of a slice, and of what begins later than the log did, positions say nothing about what is missing."""
        header = self._content.header
        return header.whole and header.first <= 1

    @property
    def content(self) -> Aslog:
        return self._content

    async def head(self) -> Head:
        header = self._content.header
        return Head(header.last, header.incarnation, header.at_us)

    async def replay(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Recorded]]:
        last = self._content.header.last if until is None else until
        if found := [event for event in self._content.events if after < event.position <= last]:
            yield found

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        return [event for event in self._content.events if event.stream == stream and event.version > after][:limit]

    async def commands(self, after: int = 0, until: int | None = None) -> AsyncIterator[Sequence[Decided]]:
        last = self._content.header.last if until is None else until
        yield [one for one in self._content.commands if max(after, 0) < one.position <= last]

    async def eventless(self, stream: str, limit: int = 100) -> list[Eventless]:
        found = [one for one in self._content.commands if one.stream == stream and not one.position]
        found.sort(key=lambda one: (one.at_us, one.id), reverse=True)
        return [Eventless(one.at_us, one.id, one.payload, one.outcome) for one in found[:limit]]

    async def unwritten(self, after_us: int = 0) -> AsyncIterator[Sequence[Decided]]:
        found = [one for one in self._content.commands if not one.position and one.at_us > after_us]
        yield sorted(found, key=lambda one: (one.at_us, one.id))

    async def position_at(self, at_us: int) -> int:
        return max((event.position for event in self._content.events if event.at_us <= at_us), default=0)

    async def close(self) -> None:
        return None
