"""`python -m services.gateway.past`: makes the snapshots of the views that are to be kept (fill.py). ASV_POSTGRES_DSN names the
log, ASV_LOG_ARCHIVE the folder of its archives, where they moved."""

from __future__ import annotations

import os
import sys

from libs.common import loop
from libs.common.log import LogError
from libs.common.log.postgres import PostgresLog
from libs.past.where import archive_folder
from services.gateway.past.fill import fill
from services.gateway.past.store_postgres import PostgresKept


async def run(dsn: str) -> int:
    """Raises LogError."""
    log = await PostgresLog.open(dsn, archive=archive_folder())
    try:
        return await fill(log, PostgresKept(dsn))
    finally:
        await log.close()


def main() -> None:
    """Exits 1 where the log cannot be had, 2 where none is named."""
    dsn = os.environ.get("ASV_POSTGRES_DSN", "")
    if not dsn:
        print("services.gateway.past: ASV_POSTGRES_DSN is not set; it names the log", file=sys.stderr)
        sys.exit(2)
    try:
        made = loop.run(run(dsn))
    except LogError as error:
        sys.exit(f"services.gateway.past: {error}")
    print(f"{made} snapshots made", file=sys.stderr)


main()
