"""Blobs: what is too large for an event (screenshots, exports), kept beside the log and known by the SHA-256 of its bytes.

Events hold digests only. A blob may be removed once its retention is over; what refers to it must live with that. A store has
room for `bytes_max` in all; where that is full, what has expired is removed first.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Protocol

import asyncpg
import msgspec

BLOB_BYTES_MAX = 16 * 1024 * 1024
STORE_BYTES_MAX = 1024**3
KEEP_S_MAX = 10 * 366 * 86_400
SWEEP_MAX = 1000
"""blobs that one sweep removes"""
POOL_MAX = 2
WAIT_S_MAX = 5.0

_KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobError(Exception):
    """Nothing was stored or removed; the text says why."""


class BlobsFull(BlobError):
    """There is no room, also not after what has expired was removed."""


class BlobsAway(BlobError):
    """The store does not answer just now."""


class Blob(msgspec.Struct, frozen=True):
    """kind: what it is, as `screenshot`. at_us: when it was first stored; keep_until_us: 0 for ever."""

    kind: str
    data: bytes
    at_us: int
    keep_until_us: int


class BlobStore(Protocol):
    """All methods raise BlobsAway."""

    async def put(self, kind: str, data: bytes, keep_s: int) -> str:
        """Keep it for keep_s seconds (0: for ever) at least. The same bytes are one blob: it is kept for the longest time that
        anybody asked for. Gives the digest, in hex. Raises ValueError (kind, size, time), BlobsFull."""
        ...

    async def get(self, digest: str) -> Blob | None:
        """None where there is none (any more)."""
        ...

    async def sweep(self, now_us: int) -> int:
        """Remove what need not be kept any more, at most SWEEP_MAX. Gives how many were removed."""
        ...

    async def close(self) -> None: ...


def _checked(kind: str, data: bytes, keep_s: int) -> str:
    if not _KIND.fullmatch(kind):
        raise ValueError(f"{kind!r} is no kind of blob: lower-case letters, digits and hyphens, at most 64")
    if len(data) > BLOB_BYTES_MAX:
        raise ValueError(f"a blob of {len(data)} bytes; at most {BLOB_BYTES_MAX} are kept")
    if not 0 <= keep_s <= KEEP_S_MAX:
        raise ValueError(f"keep_s is {keep_s}; 0 (for ever) to {KEEP_S_MAX}")
    return hashlib.sha256(data).hexdigest()


def _longer(one_us: int, other_us: int) -> int:
    return 0 if 0 in (one_us, other_us) else max(one_us, other_us)


class MemoryBlobs:
    """The twin in memory."""

    def __init__(self, now_us: Callable[[], int], bytes_max: int = STORE_BYTES_MAX) -> None:
        self._now_us = now_us
        self._bytes_max = bytes_max
        self._blobs: dict[str, Blob] = {}

    async def put(self, kind: str, data: bytes, keep_s: int) -> str:
        digest = _checked(kind, data, keep_s)
        now_us = self._now_us()
        until_us = now_us + keep_s * 1_000_000 if keep_s else 0
        if found := self._blobs.get(digest):
            longer = _longer(found.keep_until_us, until_us)
            self._blobs[digest] = msgspec.structs.replace(found, keep_until_us=longer)
            return digest
        if self._held() + len(data) > self._bytes_max:
            await self.sweep(now_us)
        if self._held() + len(data) > self._bytes_max:
            raise BlobsFull(f"the blobs hold {self._held()} of {self._bytes_max} bytes; {len(data)} do not go in")
        self._blobs[digest] = Blob(kind, data, now_us, until_us)
        return digest

    async def get(self, digest: str) -> Blob | None:
        return self._blobs.get(digest)

    async def sweep(self, now_us: int) -> int:
        over = sorted((b.keep_until_us, d) for d, b in self._blobs.items() if 0 < b.keep_until_us <= now_us)
        for _, digest in over[:SWEEP_MAX]:
            del self._blobs[digest]
        return len(over[:SWEEP_MAX])

    async def close(self) -> None:
        """Nothing to let go of."""

    def _held(self) -> int:
        return sum(len(blob.data) for blob in self._blobs.values())


GET = "select kind, bytes, at_us, retention_us from asv.blobs where digest = $1 and bytes is not null"
LOCK = "select pg_advisory_xact_lock(hashtextextended('asv.blobs', 0))"
FOUND = "select at_us, retention_us from asv.blobs where digest = $1"
HELD = "select coalesce(sum(octet_length(bytes)), 0)::bigint from asv.blobs"
DROP = "delete from asv.blobs where digest = $1"
ADD = "insert into asv.blobs (digest, kind, at_us, retention_us, bytes) values ($1, $2, $3, $4, $5)"
SWEEP = """with over as (delete from asv.blobs where digest in (
               select digest from asv.blobs where retention_us between 1 and $1 order by retention_us limit $2)
           returning 1) select count(*) from over"""


class PostgresBlobs:
    """In the log's database (infra/sql: blobs), as asv_service or asv_gateway. Connects when first used."""

    def __init__(self, dsn: str, now_us: Callable[[], int], bytes_max: int = STORE_BYTES_MAX) -> None:
        self._dsn = dsn
        self._now_us = now_us
        self._bytes_max = bytes_max
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def put(self, kind: str, data: bytes, keep_s: int) -> str:
        digest = _checked(kind, data, keep_s)
        now_us = self._now_us()
        until_us = now_us + keep_s * 1_000_000 if keep_s else 0
        await self._bounded(lambda pool: self._put(pool, (digest, kind, now_us, until_us, data)))
        return digest

    async def _put(self, pool: asyncpg.Pool[asyncpg.Record], row: tuple[str, str, int, int, bytes]) -> None:
        """One at a time: room is counted, then taken."""
        digest, kind, now_us, until_us, data = row
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK)
            if found := await connection.fetchrow(FOUND, digest):
                longer = _longer(found["retention_us"], until_us)
                if longer == found["retention_us"]:
                    return
                # Nobody may change a blob; one with another retention takes its place.
                await connection.execute(DROP, digest)
                now_us, until_us = found["at_us"], longer
            held = await connection.fetchval(HELD)
            if held + len(data) > self._bytes_max and await connection.fetchval(SWEEP, self._now_us(), SWEEP_MAX):
                held = await connection.fetchval(HELD)
            if held + len(data) > self._bytes_max:
                raise BlobsFull(f"the blobs hold {held} of {self._bytes_max} bytes; {len(data)} do not go in")
            await connection.execute(ADD, digest, kind, now_us, until_us, data)

    async def get(self, digest: str) -> Blob | None:
        if not _DIGEST.fullmatch(digest):
            return None
        row = await self._bounded(lambda pool: pool.fetchrow(GET, digest))
        return None if row is None else Blob(row["kind"], row["bytes"], row["at_us"], row["retention_us"])

    async def sweep(self, now_us: int) -> int:
        return int(await self._bounded(lambda pool: pool.fetchval(SWEEP, now_us, SWEEP_MAX)))

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()

    async def _bounded[T](self, work: Callable[[asyncpg.Pool[asyncpg.Record]], Awaitable[T]]) -> T:
        """Whatever keeps the server from answering in time becomes BlobsAway."""
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                async with self._opening:
                    if self._pool is None:
                        self._pool = await asyncpg.create_pool(self._dsn, min_size=0, max_size=POOL_MAX)
                return await work(self._pool)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise BlobsAway(f"the blobs cannot be reached: {str(error) or type(error).__name__}") from error
