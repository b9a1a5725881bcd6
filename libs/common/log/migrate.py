"""Brings a database to the shape in infra/sql: numbered files, one thing each, applied once, in order, under a lock.

    python -m libs.common.log.migrate DSN

Expand first: a file may add; what older code still reads is taken away only by a later release. An applied file never changes:
its digest is kept, and a different one is an error. The files run as asv_owner; 000_roles.sql runs each time, as the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import asyncpg

from libs.common.log.link import Connection

SQL = Path(__file__).parents[3] / "infra" / "sql"
LOCK = 0x615356_6D696772  # "aSVmigr": any number, as long as it is always the same
LOCK_S_MAX = 60


class MigrationFailed(Exception):
    """The database could not be brought to the wanted shape; everything before the named file stays applied."""


class File(NamedTuple):
    """A migration: its file's name and its SQL."""

    name: str
    text: str


def read_files(folder: Path = SQL) -> list[File]:
    """The migrations in order; the first makes the roles. Raises MigrationFailed when there are none."""
    files = [File(path.name, path.read_text()) for path in sorted(folder.glob("[0-9]*.sql"))]
    if not files:
        raise MigrationFailed(f"no SQL files in {folder}: the installation is incomplete")
    return files


async def migrate(dsn: str) -> list[str]:
    """Applies what is missing and returns the names of the applied files. Idempotent. Raises MigrationFailed."""
    roles, *files = read_files()
    connection = await asyncpg.connect(dsn, server_settings={"client_min_messages": "warning"})
    try:
        await connection.execute(f"set lock_timeout = '{LOCK_S_MAX}s'")
        await connection.execute("select pg_advisory_lock($1)", LOCK)
        await connection.execute(roles.text)
        await connection.execute("set role asv_owner")
        await connection.execute(
            "create table if not exists asv.migrations"
            " (file text primary key, digest text not null, applied_at timestamptz not null default clock_timestamp())"
        )
        return [file.name for file in files if await _apply(connection, file)]
    except asyncpg.InsufficientPrivilegeError as e:
        raise MigrationFailed(f"{e}: migrate as a role that may create roles and a schema in this database") from e
    finally:
        await connection.close()  # which gives the lock back


async def raise_incarnation(dsn: str) -> int:
    """To be called once after a restore or a promotion, by the owner. Returns the new incarnation."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("select asv.raise_incarnation()"))
    finally:
        await connection.close()


async def _apply(connection: Connection, file: File) -> bool:
    text = file.text
    digest = hashlib.sha256(text.encode()).hexdigest()
    known = await connection.fetchval("select digest from asv.migrations where file = $1", file.name)
    if known == digest:
        return False
    if known is not None:
        raise MigrationFailed(f"{file.name} was applied with another text: put it back, and add a new file instead")
    try:
        async with connection.transaction():
            await connection.execute(text)
            await connection.execute("insert into asv.migrations (file, digest) values ($1, $2)", file.name, digest)
    except asyncpg.PostgresError as e:
        raise MigrationFailed(f"{file.name}: {e}") from e
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m libs.common.log.migrate DSN")
    for name in asyncio.run(migrate(sys.argv[1])):
        print(name)
