"""One suite for both blob stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from libs.common.blobs import BLOB_BYTES_MAX, Blob, BlobsAway, BlobsFull, BlobStore, MemoryBlobs, PostgresBlobs
from libs.common.clock import ManualClock
from services.gateway.chores import sweep_blobs, sweep_once

ROOM = 1000
NOW = 1_700_000_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture(params=["memory", "postgres"])
def dsn(request: pytest.FixtureRequest) -> str:
    """Where the blobs are: empty for those in memory."""
    if request.param == "memory":
        return ""
    found: str = request.getfixturevalue("postgres").dsn(request.getfixturevalue("database"), "asv_gateway")
    return found


@pytest.fixture
async def blobs(dsn: str, clock: ManualClock) -> AsyncIterator[BlobStore]:
    made: BlobStore = PostgresBlobs(dsn, clock.now_us, ROOM) if dsn else MemoryBlobs(clock.now_us, ROOM)
    yield made
    await made.close()


async def test_known_by_what_it_holds(blobs: BlobStore) -> None:
    digest = await blobs.put("screenshot", b"pixels", 60)
    assert digest == hashlib.sha256(b"pixels").hexdigest()
    assert await blobs.get(digest) == Blob("screenshot", b"pixels", NOW, NOW + 60_000_000)
    assert await blobs.get("0" * 64) is None and await blobs.get("'; nonsense") is None
    assert await blobs.get(await blobs.put("empty", b"", 0)) == Blob("empty", b"", NOW, 0)


async def test_the_same_bytes_are_kept_for_the_longest_time_asked_for(blobs: BlobStore, clock: ManualClock) -> None:
    digest = await blobs.put("screenshot", b"x", 60)
    clock.advance(1.0)
    for keep_s, until_us in ((10, NOW + 60_000_000), (100, NOW + 101_000_000), (0, 0), (5, 0)):
        assert await blobs.put("screenshot", b"x", keep_s) == digest
        assert await blobs.get(digest) == Blob("screenshot", b"x", NOW, until_us)


async def test_a_sweep_removes_what_is_over_and_nothing_else(blobs: BlobStore) -> None:
    short, long, ever = [await blobs.put("a", text, keep) for text, keep in ((b"s", 1), (b"l", 2), (b"e", 0))]
    assert await blobs.sweep(NOW + 999_999) == 0
    assert await blobs.sweep(NOW + 1_000_000) == 1
    assert await blobs.get(short) is None and await blobs.get(long) is not None
    assert await blobs.sweep(NOW + 10**15) == 1
    assert await blobs.get(ever) is not None


async def test_room_is_bounded_and_what_is_over_makes_room(blobs: BlobStore, clock: ManualClock) -> None:
    first = await blobs.put("a", b"1" * 600, 1)
    with pytest.raises(BlobsFull, match="600 of 1000 bytes; 500 do not"):
        await blobs.put("a", b"2" * 500, 1)
    clock.advance(2.0)
    second = await blobs.put("a", b"2" * 500, 1)
    assert await blobs.get(first) is None and await blobs.get(second) is not None


async def test_many_at_once_never_take_more_room_than_there_is(blobs: BlobStore) -> None:
    done = await asyncio.gather(*(blobs.put("a", bytes([n]) * 300, 0) for n in range(8)), return_exceptions=True)
    assert sum(isinstance(one, str) for one in done) == 3
    assert all(isinstance(one, str | BlobsFull) for one in done)


@pytest.mark.parametrize(
    ("kind", "size", "keep_s"), [("No Kind", 1, 1), ("", 1, 1), ("a", BLOB_BYTES_MAX + 1, 1), ("a", 1, -1)]
)
async def test_what_is_no_blob_is_refused(blobs: BlobStore, kind: str, size: int, keep_s: int) -> None:
    with pytest.raises(ValueError, match=r"kind|bytes|keep_s"):
        await blobs.put(kind, bytes(size), keep_s)


async def test_a_store_that_is_away_says_so(clock: ManualClock) -> None:
    away = PostgresBlobs("postgresql://asv_gateway@/asv?host=/nonexistent", clock.now_us)
    with pytest.raises(BlobsAway, match="cannot be reached"):
        await away.put("a", b"x", 1)


async def test_what_is_over_goes_without_anybody_asking(blobs: BlobStore, clock: ManualClock) -> None:
    over, ever = await blobs.put("a", b"o", 1), await blobs.put("a", b"e", 0)
    clock.advance(2.0)
    sweeping = asyncio.create_task(sweep_blobs(blobs, clock))
    try:
        async with asyncio.timeout(10):
            while await blobs.get(over) is not None:
                await asyncio.sleep(0.01)
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
    assert await blobs.get(ever) is not None


async def test_a_sweep_ends_when_little_is_left(blobs: BlobStore) -> None:
    for n in range(3):
        await blobs.put("a", b"%d" % n, 1)
    assert await sweep_once(blobs, NOW + 10**9) == 3 and await sweep_once(blobs, NOW + 10**9) == 0
