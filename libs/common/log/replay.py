"""The whole log, fast: COPY … TO STDOUT (FORMAT binary), taken apart by hand.

One query, one connection, and no more in memory than a few chunks: while they wait to be taken, the server waits too. The
lengths of the four variable fields are asked for as columns of their own, in front: so one unpack reads everything of fixed
width, and the rest is slices.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence

import asyncpg

from libs.common.log import LogError, Unavailable
from libs.common.log.link import LOST, Access, Connection
from libs.common.messages import Recorded

CHUNKS_MAX = 2
SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER_BYTES = 19

QUERY = """
select position, at_us, version, v, octet_length(stream), octet_length(type), octet_length(data), octet_length(meta),
       stream, type, data, meta
from asv.events where position > $1 and position <= $2 order by position
"""

# A row: the number of fields, then each with its length in front. The lengths of fixed fields are known and skipped.
_fixed = struct.Struct(">h 4xq 4xq 4xi 4xh 4xi 4xi 4xi 4xi 4x").unpack_from
_FIXED_BYTES = struct.calcsize(">h 4xq 4xq 4xi 4xh 4xi 4xi 4xi 4xi 4x")


class Rows:
    """Turns the bytes of a binary COPY of QUERY into Recorded. Rows may be split anywhere between two pieces of bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._types: dict[bytes, str] = {}

    def take(self, piece: bytes | bytearray) -> list[Recorded]:
        """The rows that are complete with this piece. Raises LogError when it is no such copy."""
        piece = (
            self._rest + piece
        )  # bytes, also where the driver gave a bytearray: slices are kept, and must not change
        at = 0
        if not self._begun:
            if len(piece) < HEADER_BYTES:
                self._rest = piece
                return []
            if not piece.startswith(SIGNATURE):
                raise LogError(f"replay: not a binary copy: {piece[:HEADER_BYTES]!r}")
            at = HEADER_BYTES
            self._begun = True
        rows: list[Recorded] = []
        at = self._parse(piece, at, rows)
        self._rest = piece[at:]
        return rows

    def _parse(self, piece: bytes, at: int, rows: list[Recorded]) -> int:
        """Appends complete rows; returns where the first incomplete one (or the trailer, -1 fields) begins."""
        add, fixed, types, last = rows.append, _fixed, self._types, len(piece) - _FIXED_BYTES
        while at <= last:
            _, position, at_us, version, v, n_stream, n_type, n_data, n_meta = fixed(piece, at)
            a = at + _FIXED_BYTES
            b = a + n_stream
            c = b + 4
            d = c + n_type
            e = d + 4
            f = e + n_data
            g = f + 4
            end = g + n_meta
            name = piece[c:d]
            type = types.get(name)
            if type is None:
                type = types[name] = name.decode()
            if end > len(piece):
                break
            add(Recorded(position, piece[a:b].decode(), version, type, v, at_us, piece[e:f], piece[g:end]))
            at = end
        return at


async def replay(access: Access, after: int, until: int | None) -> AsyncIterator[Sequence[Recorded]]:
    """See EventLog.replay. Raises Unavailable when the connection is lost under way: what was given is good."""
    try:
        connection = await access.connect()
    except (*LOST, asyncpg.PostgresError) as error:
        raise Unavailable(f"replay: the database is away ({error}); ask again") from error
    chunks: asyncio.Queue[Sequence[Recorded] | None] = asyncio.Queue(CHUNKS_MAX)
    task = asyncio.create_task(_copy(connection, after, until, chunks), name="log-replay")
    try:
        while (chunk := await chunks.get()) is not None:
            yield chunk
        await task
    except (*LOST, asyncpg.PostgresError) as error:
        raise Unavailable(f"replay: the database was lost ({error}); ask again") from error
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        connection.terminate()


async def _copy(
    connection: Connection, after: int, until: int | None, chunks: asyncio.Queue[Sequence[Recorded] | None]
) -> None:
    rows = Rows()

    async def sink(piece: bytes | bytearray) -> None:
        if chunk := rows.take(piece):
            await chunks.put(chunk)

    try:
        # Positions are the order of the primary key; a sort, or workers, would only hold the first row back.
        await connection.execute("set enable_sort = off; set enable_seqscan = off; set enable_bitmapscan = off")
        upto = 2**63 - 1 if until is None else until
        await connection.copy_from_query(QUERY, max(after, 0), upto, output=sink, format="binary")
    finally:
        await chunks.put(None)
