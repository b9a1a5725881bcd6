"""The first token: without it nobody could make another."""

from __future__ import annotations

import logging
from pathlib import Path

from libs.common.bus.credentials import write_private
from libs.common.clock import Clock, SystemClock
from services.gateway.auth import ALL_PROJECTS, Role
from services.gateway.tokens import Keyring, TokenStore, new_token
from services.gateway.tokens_postgres import PostgresTokens

_log = logging.getLogger(__name__)

NAME = "admin"


async def ensure_admin(dsn: str, path: Path) -> str:
    """A valid admin token for all projects, in `path` (mode 0600); made when the file holds none that is still good. The
    migrations must have run. Safe to repeat. Raises StoreAway, OSError."""
    store = PostgresTokens(dsn)
    try:
        return await ensure_admin_in(store, path, SystemClock())
    finally:
        await store.close()


async def ensure_admin_in(store: TokenStore, path: Path, clock: Clock) -> str:
    """As ensure_admin, in a store that is open."""
    known = _known(path)
    who = await Keyring(store).who(known, clock.now_us()) if known else None
    if who is not None and who.role is Role.ADMIN and who.all_projects:
        return known
    row, token = new_token(NAME, Role.ADMIN, (ALL_PROJECTS,), 0)
    await store.add(row)
    _keep(path, token)
    _log.info("a new admin token lies in %s", path)
    return token


def _keep(path: Path, token: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, f"{token}\n".encode())


def _known(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
