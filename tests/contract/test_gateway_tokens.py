"""One suite for both token stores, and the first admin token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import ManualClock
from services.gateway.auth import Role
from services.gateway.first import ensure_admin, ensure_admin_in
from services.gateway.tokens import (
    Keyring,
    MemoryTokens,
    StoreAway,
    TokenRow,
    TokenStore,
    digest,
    new_join_token,
    new_token,
)
from services.gateway.tokens_postgres import PostgresTokens

NOW = 1_700_000_000_000_000


@pytest.fixture(params=["memory", "postgres"])
def twin_dsn(request: pytest.FixtureRequest) -> str:
    """Where the tokens are: empty for those in memory."""
    if request.param == "memory":
        return ""
    dsn: str = request.getfixturevalue("postgres").dsn(request.getfixturevalue("database"), "asv_gateway")
    return dsn


@pytest.fixture
async def store(twin_dsn: str) -> AsyncIterator[TokenStore]:
    if not twin_dsn:
        yield MemoryTokens()
        return
    made = PostgresTokens(twin_dsn)
    yield made
    await made.close()


async def test_kept_and_found(store: TokenStore) -> None:
    row, token = new_token("ann", Role.OPERATOR, ("a", "b"), NOW + 5)
    assert len(token.partition(".")[2]) >= 43, "256 bits"
    await store.add(row)
    assert await store.get(row.id) == row and await store.get("nobody") is None
    assert await store.rows() == [row]
    ring = Keyring(store)
    who = await ring.who(token, NOW)
    assert who is not None and (who.name, who.role, who.projects) == ("ann", Role.OPERATOR, ("a", "b"))
    assert await ring.who(token, NOW + 5) is None, "expired"
    assert await ring.who(f"{row.id}.x", NOW) is None
    assert await ring.who(token + "x", NOW) is None


@pytest.mark.parametrize("token", ["", "x", ".", "a.b", "a" * 300 + ".b", "\x00.x", "é.x"])
async def test_nonsense_is_nobody(store: TokenStore, token: str) -> None:
    assert await Keyring(store).who(token, NOW) is None


async def test_revoked(store: TokenStore) -> None:
    row, token = new_token("ann", Role.VIEWER, ("*",), 0)
    await store.add(row)
    ring, other = Keyring(store), Keyring(store)
    assert await ring.who(token, NOW) and await other.who(token, NOW)
    assert await store.revoke(row.id) and not await store.revoke("nobody")
    ring.forget(row.id)
    assert await ring.who(token, NOW) is None
    assert await other.who(token, NOW + 1) is not None, "remembered for two seconds at most"
    assert await other.who(token, NOW + 2_000_000) is None


async def test_a_revocation_is_told_to_all_who_watch(store: TokenStore, twin_dsn: str) -> None:
    row, token = new_token("ann", Role.VIEWER, ("*",), 0)
    await store.add(row)
    elsewhere: TokenStore = PostgresTokens(twin_dsn) if twin_dsn else store
    told: asyncio.Queue[str] = asyncio.Queue()
    ring = Keyring(elsewhere)

    def changed(id: str) -> None:
        ring.forget(id)
        told.put_nowait(id)

    watching = asyncio.create_task(elsewhere.watch(changed))
    try:
        if twin_dsn:
            assert await asyncio.wait_for(told.get(), 10) == "", "it listens: some may have been missed before"
        else:
            await asyncio.sleep(0)
        assert await ring.who(token, NOW)
        with ring.changes(row.id) as mine, ring.changes("another") as others:
            await store.revoke(row.id)
            assert await asyncio.wait_for(told.get(), 10) == row.id
            assert mine.is_set() and not others.is_set()
        assert await ring.who(token, NOW) is None, "not remembered for another two seconds"
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_row_that_was_read_before_the_revocation_is_not_remembered_after_it() -> None:
    class Slow(MemoryTokens):
        """Gives what it read a turn later."""

        def __init__(self) -> None:
            super().__init__()
            self.reading, self.go = asyncio.Event(), asyncio.Event()

        async def get(self, id: str) -> TokenRow | None:
            row = await super().get(id)
            self.reading.set()
            await self.go.wait()
            return row

    store = Slow()
    row, token = new_token("ann", Role.VIEWER, ("*",), 0)
    await store.add(row)
    ring = Keyring(store)
    asked = asyncio.create_task(ring.who(token, NOW))
    await store.reading.wait()
    await store.revoke(row.id)
    ring.forget(row.id)
    store.go.set()
    assert await asked is not None, "it was asked before"
    assert await ring.who(token, NOW) is None


async def test_a_join_token_counts_once(store: TokenStore) -> None:
    hash, token = new_join_token()
    assert digest(token) == hash
    await store.add_join(hash, NOW + 100)
    assert await store.join_counts(hash, NOW)
    used = await asyncio.gather(*(store.use_join(hash, f"n{i}", NOW) for i in range(6)))
    assert sum(used) == 1 and not await store.join_counts(hash, NOW)
    await store.give_back_join(hash, "another")
    assert not await store.use_join(hash, "n1", NOW)
    await store.give_back_join(hash, f"n{used.index(True)}")
    assert await store.use_join(hash, "n1", NOW)


async def test_an_old_or_unknown_join_token_does_not_count(store: TokenStore) -> None:
    hash, _ = new_join_token()
    assert not await store.use_join(hash, "n1", NOW)
    await store.add_join(hash, NOW)
    assert not await store.use_join(hash, "n1", NOW) and not await store.join_counts(hash, NOW)


async def test_the_first_admin(store: TokenStore, tmp_path: Path) -> None:
    clock, path = ManualClock(NOW), tmp_path / "deep" / "admin.token"
    token = await ensure_admin_in(store, path, clock)
    assert path.read_text().strip() == token and path.stat().st_mode & 0o777 == 0o600
    assert await ensure_admin_in(store, path, clock) == token, "kept while it is good"
    who = await Keyring(store).who(token, NOW)
    assert who is not None and who.role is Role.ADMIN and who.all_projects
    await store.revoke(who.id)
    assert await ensure_admin_in(store, path, clock) != token
    path.write_text("nonsense\n")
    again = await ensure_admin_in(store, path, clock)
    assert await Keyring(store).who(again, NOW)


async def test_a_server_that_is_away(tmp_path: Path) -> None:
    store = PostgresTokens(f"postgresql://asv_gateway@/asv?host={tmp_path}")
    with pytest.raises(StoreAway, match="cannot be reached"):
        await store.get("x")
    with pytest.raises(StoreAway):
        await ensure_admin(f"postgresql://asv_gateway@/asv?host={tmp_path}", tmp_path / "t")
