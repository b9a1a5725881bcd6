"""Fresh, migrated databases on a test's server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from libs.common.log.migrate import migrate
from tests.servers import Postgres

_numbers = itertools.count(1)
TEMPLATE = "asv_template"


@asynccontextmanager
async def fresh(postgres: Postgres) -> AsyncIterator[str]:
    """The name of one; dropped afterwards."""
    admin = await asyncpg.connect(postgres.dsn())
    try:
        if not await admin.fetchval("select exists (select from pg_database where datname = $1)", TEMPLATE):
            await admin.execute(f"create database {TEMPLATE}")
            await migrate(postgres.dsn(TEMPLATE))
        name = f"asv_{next(_numbers)}"
        await admin.execute(f"create database {name} template {TEMPLATE}")
    finally:
        await admin.close()
    yield name
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()
