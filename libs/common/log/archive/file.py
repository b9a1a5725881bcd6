"""One archive: events, batches and commands of a range of positions, compressed; any part of it is read alone.

    "asv.arc\\n"                      eight bytes
    frames                           each: zstd of msgpack, found by the directory
        E   [[Recorded, …], digests]    events by position, and their digests one after the other
        B   [Link, …]                   batches by number
        C   [Ordered, …]                commands by batch, position and id; first those that were not chained (batch 0)
    directory                        zstd of msgpack: Header, all frames with their digests, and for each stream the frames it is in
    trailer                          the directory's length (8 bytes, big-endian), its BLAKE2b (32 bytes), "asv.end\\n"

The directory's digest stands for the whole file: a frame is believed where it has the digest that the directory says. It is kept in
the database (asv.archives), so that another file in its place is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from backports import zstd

from libs.common.log.archive import BadArchive, Header, Link, Ordered
from libs.common.messages import Recorded

MAGIC, END = b"asv.arc\n", b"asv.end\n"
FORMAT = 1
ENDING = ".asvarc"
MODE = 0o640
"""of a file: requests of users are in it"""
LEVEL = 3
FRAME_ROWS = 2048
FRAME_DIGEST_BYTES = 16
DIGEST_BYTES = 32
TRAILER_BYTES = 8 + DIGEST_BYTES + len(END)
FRAME_BYTES_MAX = 1 << 30
EVENTS, BATCHES, COMMANDS = "E", "B", "C"


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """kind; where its bytes are, and their digest; first, last: positions of events, else numbers of batches; from_us, until_us:
    times."""

    kind: str
    offset: int
    length: int
    digest: bytes
    first: int
    last: int
    from_us: int
    until_us: int


class Indexed(msgspec.Struct, array_like=True):
    """A stream in an archive: its last version, the frames of events that hold it, and of commands to it that wrote nothing."""

    version: int = 0
    events: list[int] = []
    answers: list[int] = []


class Directory(msgspec.Struct, frozen=True):
    header: Header
    frames: list[Frame]
    streams: dict[str, msgspec.Raw]


_encode = msgspec.msgpack.Encoder().encode
_directory = msgspec.msgpack.Decoder(Directory).decode
_indexed = msgspec.msgpack.Decoder(Indexed).decode
_events = msgspec.msgpack.Decoder(tuple[list[Recorded], bytes]).decode
_links = msgspec.msgpack.Decoder(list[Link]).decode
_ordered = msgspec.msgpack.Decoder(list[Ordered]).decode


def name_of(log: bytes, first: int, last: int) -> str:
    return f"{log[:4].hex()}-{first:012d}-{last:012d}{ENDING}"


class Making:
    """Writes an archive frame by frame; `finish` makes it whole and durable. What is not finished is no archive."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self._out = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE), "wb")
        self._out.write(MAGIC)
        self._frames: list[Frame] = []
        self._streams: dict[str, Indexed] = {}

    def events(self, records: Sequence[Recorded], digests: bytes) -> None:
        """Without holes, behind those before."""
        first, last = records[0], records[-1]
        self._add(EVENTS, (records, digests), first.position, last.position, first.at_us, last.at_us)
        frame = len(self._frames) - 1
        for recorded in records:
            known = self._of(recorded.stream)
            known.version = recorded.version
            if not known.events or known.events[-1] != frame:
                known.events.append(frame)

    def batches(self, links: Sequence[Link]) -> None:
        self._add(BATCHES, links, links[0].number, links[-1].number, links[0].at_us, links[-1].at_us)

    def commands(self, rows: Sequence[Ordered]) -> None:
        self._add(COMMANDS, rows, rows[0].batch, rows[-1].batch, rows[0].at_us, rows[-1].at_us)
        frame = len(self._frames) - 1
        for row in rows:
            if not row.position:
                known = self._of(row.stream)
                if not known.answers or known.answers[-1] != frame:
                    known.answers.append(frame)

    def finish(self, header: Header) -> bytes:
        """The directory's digest. The file is on disk then, whole."""
        streams = {name: msgspec.Raw(_encode(known)) for name, known in sorted(self._streams.items())}
        packed = zstd.compress(_encode(Directory(header, self._frames, streams)), LEVEL)
        digest = _digest(packed, DIGEST_BYTES)
        self._out.write(packed + len(packed).to_bytes(8) + digest + END)
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        return digest

    def give_up(self) -> None:
        self._out.close()
        self.path.unlink(missing_ok=True)

    def _of(self, stream: str) -> Indexed:
        known = self._streams.get(stream)
        if known is None:
            known = self._streams[stream] = Indexed()
        return known

    def _add(self, kind: str, value: Any, first: int, last: int, from_us: int, until_us: int) -> None:
        packed = zstd.compress(_encode(value), LEVEL)
        digest = _digest(packed, FRAME_DIGEST_BYTES)
        self._frames.append(Frame(kind, self._out.tell(), len(packed), digest, first, last, from_us, until_us))
        self._out.write(packed)


class Registered(NamedTuple):
    """What the database says that a file must be: the digest of its directory, its size, and its positions."""

    digest: bytes
    size: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"positions {self.first} to {self.last}"


class Archive:
    """Reads one. Made by `open`; bounded by a frame and the directory. All methods raise BadArchive."""

    def __init__(self, path: Path, directory: Directory, digest: bytes) -> None:
        self.path = path
        self.header = directory.header
        self.digest = digest
        self._frames = directory.frames
        self._streams = directory.streams

    @classmethod
    def open(cls, path: Path, registered: Registered | None = None) -> Archive:
        """registered: which file it has to be; None: whichever it is."""
        what = f"the archive {path}" + (f" ({registered})" if registered else "")
        packed, digest = _tail(path, what, registered)
        if registered is not None and digest != registered.digest:
            found = _unpacked(packed, what).header
            said = f"{what} is another file than the one that was made: it holds {found.span} of log {found.log[:4].hex()}"
            raise BadArchive(f"{said}; put back the one whose directory has the digest {registered.digest.hex()[:16]}…")
        return cls(path, _unpacked(packed, what), digest)

    # --- by ranges --------------------------------------------------------------------------------------------------

    def events(self, after: int, until: int) -> Iterator[tuple[list[Recorded], bytes]]:
        """Events with after < position <= until in chunks, with their digests."""
        for frame in self._of(EVENTS, after, until):
            records, digests = _events(self._read(frame))
            low, high = max(after + 1 - frame.first, 0), min(until, frame.last) + 1 - frame.first
            yield records[low:high], digests[low * FRAME_DIGEST_BYTES : high * FRAME_DIGEST_BYTES]

    def batches(self, after: int, until: int) -> Iterator[list[Link]]:
        for frame in self._of(BATCHES, after, until):
            yield [link for link in _links(self._read(frame)) if after < link.number <= until]

    def commands(self, after: int, until: int) -> Iterator[list[Ordered]]:
        """By the numbers of their batches: after < batch <= until. With after = -1 those that were not chained come first."""
        for frame in self._of(COMMANDS, after, until):
            yield [row for row in _ordered(self._read(frame)) if after < row.batch <= until]

    def commands_since(self, at_us: int) -> Iterator[list[Ordered]]:
        for frame in self._frames:
            if frame.kind == COMMANDS and frame.until_us >= at_us:
                yield [row for row in _ordered(self._read(frame)) if row.at_us >= at_us]

    # --- by stream, by time -----------------------------------------------------------------------------------------

    def of_stream(self, stream: str, after: int, limit: int) -> list[Recorded]:
        """Events of one stream with version > after, in order."""
        found: list[Recorded] = []
        known = self._indexed(stream)
        for number in known.events if known.version > after else ():
            records, _ = _events(self._read(self._frames[number]))
            found += [r for r in records if r.stream == stream and r.version > after]
            if len(found) >= limit:
                break
        return found[:limit]

    def answers(self, stream: str) -> Iterator[Ordered]:
        """Commands to one stream that wrote nothing, the newest first."""
        for number in reversed(self._indexed(stream).answers):
            rows = [r for r in _ordered(self._read(self._frames[number])) if r.stream == stream and not r.position]
            yield from sorted(rows, key=lambda row: (row.at_us, row.id), reverse=True)

    def position_at(self, at_us: int) -> int:
        """The last position of that time or before; the one before `first` where there is none."""
        frames = [frame for frame in self._frames if frame.kind == EVENTS and frame.from_us <= at_us]
        if not frames:
            return self.header.first - 1
        records, _ = _events(self._read(frames[-1]))
        return max(r.position for r in records if r.at_us <= at_us)

    def versions(self) -> Iterable[tuple[str, int]]:
        """The last version of each stream that has events here."""
        for stream in self._streams:
            if version := self._indexed(stream).version:
                yield stream, version

    def check(self) -> None:
        """Every frame is what was written."""
        for frame in self._frames:
            self._read(frame)

    def _indexed(self, stream: str) -> Indexed:
        raw = self._streams.get(stream)
        return Indexed() if raw is None else _indexed(raw)

    def _of(self, kind: str, after: int, until: int) -> Iterator[Frame]:
        return (f for f in self._frames if f.kind == kind and f.first <= until and f.last > after)

    def _read(self, frame: Frame) -> bytes:
        what = f"the archive {self.path} ({self.header.span})"
        unit = "positions" if frame.kind == EVENTS else "batches"
        part = f"its part with {unit} {frame.first} to {frame.last} (bytes {frame.offset} to {frame.offset + frame.length})"
        try:
            with self.path.open("rb") as file:
                packed = os.pread(file.fileno(), frame.length, frame.offset)
        except OSError as error:
            raise BadArchive(f"{what} cannot be read: {error.strerror}; put it back") from error
        if len(packed) < frame.length or _digest(packed, FRAME_DIGEST_BYTES) != frame.digest:
            raise BadArchive(f"{what} is torn or was changed: {part} is not what was written; put back a good copy of the file")
        return zstd.decompress(packed)


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()


def _tail(path: Path, what: str, registered: Registered | None) -> tuple[bytes, bytes]:
    """The packed directory and its digest, as the trailer says."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(MAGIC)) != MAGIC:
                raise BadArchive(f"{what} is no archive: it does not begin with {MAGIC!r}")
            trailer = os.pread(file.fileno(), TRAILER_BYTES, max(size - TRAILER_BYTES, 0))
            length, digest = int.from_bytes(trailer[:8]), trailer[8 : 8 + DIGEST_BYTES]
            if not trailer.endswith(END) or length > size - TRAILER_BYTES - len(MAGIC):
                written = f", and {registered.size} were written" if registered is not None else ""
                said = f"{what} is torn: it has {size} bytes{written}, and does not end as an archive does"
                raise BadArchive(f"{said}; put back a good copy")
            packed = os.pread(file.fileno(), length, size - TRAILER_BYTES - length)
    except FileNotFoundError as error:
        raise BadArchive(f"{what} is not there; put it back, or say by ASV_LOG_ARCHIVE in which folder it is") from error
    except OSError as error:
        raise BadArchive(f"{what} cannot be read: {error.strerror}") from error
    if _digest(packed, DIGEST_BYTES) != digest:
        raise BadArchive(f"{what} was changed: its directory is not what was written; put back a good copy")
    return packed, digest


def _unpacked(packed: bytes, what: str) -> Directory:
    try:
        found = _directory(zstd.decompress(packed))
    except (zstd.ZstdError, msgspec.MsgspecError) as error:
        raise BadArchive(f"{what} cannot be read by this release: {error}") from error
    if found.header.format != FORMAT:
        said = f"{what} has format {found.header.format}, this release reads {FORMAT}"
        raise BadArchive(f"{said}: use the release that wrote it, or a later one")
    return found
