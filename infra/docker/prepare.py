"""The second job, once the database serves: its shape, its users' passwords, and a one-time token for each node that has yet to
join. Safe to repeat: `docker compose up` runs it each time.

python -m infra.docker.prepare
"""

from __future__ import annotations

import asyncio

import asyncpg

from infra.docker import places
from infra.docker.keys import READER, ROLES, password
from libs.common.bus.credentials import write_private
from libs.common.clock import SystemClock
from libs.common.log.migrate import migrate
from services.gateway.tokens import new_join_token
from services.gateway.tokens_postgres import PostgresTokens

JOIN_US = 3600 * 1_000_000


async def passwords(dsn: str) -> None:
    """Each role's, as the processes were told (keys.py)."""
    connection = await asyncpg.connect(dsn)
    try:
        for role in sorted({*ROLES.values(), READER}):
            sql = await connection.fetchval(
                "select format('alter role %I password %L', $1::text, $2::text)", role, password(role)
            )
            await connection.execute(sql)
    finally:
        await connection.close()


async def join_tokens() -> list[str]:
    """Nodes that got one: those without credentials."""
    new = [node for node in places.NODES if not (places.NODE_STATES / node / "keys" / f"{node}.jwt").exists()]
    store = PostgresTokens(places.dsn("asv_gateway", password("asv_gateway")))
    try:
        for node in new:
            hash, token = new_join_token()
            await store.add_join(hash, SystemClock().now_us() + JOIN_US)
            write_private(places.NODE_STATES / node / "join.token", token.encode())
    finally:
        await store.close()
    return new


async def main() -> None:
    owner = places.dsn(places.OWNER, password(places.OWNER))
    applied = await migrate(owner)
    await passwords(owner)
    new = await join_tokens()
    print(f"prepare: {len(applied)} migrations; join tokens for {', '.join(new) or 'no node, all have joined'}")


if __name__ == "__main__":
    asyncio.run(main())
