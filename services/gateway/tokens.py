"""Bearer and join tokens: how they are made, hashed and kept. At rest there is only the SHA-256 of 256 random bits,
which needs no salt and no slow hash: it cannot be guessed.

A bearer token reads `ID.SECRET`: it is found by its id, then its hash is compared in constant time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec

from services.gateway.auth import Principal, Role

SECRET_BYTES = 32
TOKENS_MAX = 10_000
"""how many tokens a list gives at most"""


class StoreAway(Exception):
    """The tokens cannot be read or written just now; nothing was changed."""


class TokenRow(msgspec.Struct, frozen=True):
    """A token at rest. expires_us: 0 for never."""

    id: str
    hash: bytes
    name: str
    role: Role
    projects: tuple[str, ...]
    expires_us: int = 0
    revoked: bool = False

    def valid(self, now_us: int) -> bool:
        return not self.revoked and (self.expires_us == 0 or now_us < self.expires_us)

    def principal(self) -> Principal:
        return Principal(self.id, self.name, self.role, self.projects, self.expires_us)


class TokenStore(Protocol):
    """All methods but `watch` raise StoreAway. Join tokens are known by their hash alone."""

    async def watch(self, changed: Callable[[str], None]) -> None:
        """From now on `changed` is called soon after a token was revoked, whoever did it, with its id; with an empty one where some
        may have been missed. Without an end: it is a task to cancel."""
        ...

    async def get(self, id: str) -> TokenRow | None: ...

    async def rows(self) -> list[TokenRow]:
        """By name, then id; at most TOKENS_MAX."""
        ...

    async def add(self, row: TokenRow) -> None: ...

    async def revoke(self, id: str) -> bool:
        """False where there is none of that id."""
        ...

    async def add_join(self, hash: bytes, expires_us: int) -> None: ...

    async def join_counts(self, hash: bytes, now_us: int) -> bool:
        """Would `use_join` take it now?"""
        ...

    async def use_join(self, hash: bytes, node: str, now_us: int) -> bool:
        """True exactly once for each unexpired join token, whoever asks at the same time."""
        ...

    async def give_back_join(self, hash: bytes, node: str) -> None:
        """The join that used it was not decided: it may be used again."""
        ...


class MemoryTokens:
    """The twin of PostgresTokens for tests and the world."""

    def __init__(self) -> None:
        self._rows: dict[str, TokenRow] = {}
        self._joins: dict[bytes, tuple[int, str]] = {}
        self._watchers: list[Callable[[str], None]] = []

    async def watch(self, changed: Callable[[str], None]) -> None:
        self._watchers.append(changed)
        try:
            await asyncio.Event().wait()
        finally:
            self._watchers.remove(changed)

    async def get(self, id: str) -> TokenRow | None:
        return self._rows.get(id)

    async def rows(self) -> list[TokenRow]:
        return sorted(self._rows.values(), key=lambda row: (row.name, row.id))[:TOKENS_MAX]

    async def add(self, row: TokenRow) -> None:
        self._rows[row.id] = row

    async def revoke(self, id: str) -> bool:
        if (row := self._rows.get(id)) is None:
            return False
        self._rows[id] = msgspec.structs.replace(row, revoked=True)
        for changed in self._watchers:
            changed(id)
        return True

    async def add_join(self, hash: bytes, expires_us: int) -> None:
        self._joins[hash] = (expires_us, "")

    async def join_counts(self, hash: bytes, now_us: int) -> bool:
        expires_us, used_by = self._joins.get(hash, (0, ""))
        return not used_by and now_us < expires_us

    async def use_join(self, hash: bytes, node: str, now_us: int) -> bool:
        if not await self.join_counts(hash, now_us):
            return False
        self._joins[hash] = (self._joins[hash][0], node)
        return True

    async def give_back_join(self, hash: bytes, node: str) -> None:
        expires_us, used_by = self._joins.get(hash, (0, ""))
        if used_by == node:
            self._joins[hash] = (expires_us, "")


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def new_token(name: str, role: Role, projects: tuple[str, ...], expires_us: int) -> tuple[TokenRow, str]:
    """A row to keep and the token to hand out once."""
    id = secrets.token_hex(6)
    token = f"{id}.{secrets.token_urlsafe(SECRET_BYTES)}"
    return TokenRow(id, digest(token), name, role, projects, expires_us), token


def new_join_token() -> tuple[bytes, str]:
    """A hash to keep and the token to hand out once."""
    token = secrets.token_urlsafe(SECRET_BYTES)
    return digest(token), token


class Keyring:
    """Finds who a token stands for. Rows are remembered for `remember_us`, and forgotten as soon as the store tells of a change
    (`forget`): only where that is cut off may a revocation made elsewhere take so long to be felt here."""

    def __init__(self, store: TokenStore, *, remember_us: int = 2_000_000, rows_max: int = 1024) -> None:
        self.store = store
        self.remember_us = remember_us
        self.rows_max = rows_max
        self._seen: dict[str, tuple[int, TokenRow]] = {}
        self._changes = 0
        self._held: dict[asyncio.Event, str] = {}

    async def who(self, token: str, now_us: int) -> Principal | None:
        """None for a token that is unknown, expired or revoked. Raises StoreAway."""
        id, dot, _ = token.partition(".")
        if not dot or len(token) > 200 or not token.isascii() or not token.isprintable():
            return None
        at_us, row = self._seen.get(id, (0, None))
        if row is None or not 0 <= now_us - at_us < self.remember_us:
            changes = self._changes
            row = await self.store.get(id)
            if row is not None and changes == self._changes:  # else it may be older than the change
                self._remember(row, now_us)
        if row is None or not hmac.compare_digest(row.hash, digest(token)) or not row.valid(now_us):
            return None
        return row.principal()

    async def still(self, principal: Principal, now_us: int) -> bool:
        """Is the token behind this principal still good? For streams that last."""
        row = await self.store.get(principal.id)
        return row is not None and row.valid(now_us)

    def forget(self, id: str) -> None:
        """The token has changed (empty: any may have); what lasts under it is woken."""
        self._changes += 1
        if id:
            self._seen.pop(id, None)
        else:
            self._seen.clear()
        for changed, held in self._held.items():
            if id in ("", held):
                changed.set()

    @contextmanager
    def changes(self, id: str) -> Iterator[asyncio.Event]:
        """Set when the token may have changed: `still` says what it is worth now."""
        changed = asyncio.Event()
        self._held[changed] = id
        try:
            yield changed
        finally:
            del self._held[changed]

    def _remember(self, row: TokenRow, now_us: int) -> None:
        if len(self._seen) >= self.rows_max:
            self._seen.clear()
        self._seen[row.id] = (now_us, row)
