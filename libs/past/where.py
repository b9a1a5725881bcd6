"""Which past log is meant: a word that people give."""

from __future__ import annotations

from libs.common.log import LogError
from libs.past.postgres import PostgresPast
from libs.past.source import Past

DSN = ("postgresql://", "postgres://")


async def open_past(where: str) -> Past:
    """where: the address of a database, `postgresql://…`. Raises LogError, Unavailable."""
    if where.startswith(DSN):
        return await PostgresPast.open(where)
    raise LogError(f"`{where}` is no log: write postgresql://ROLE@HOST/DATABASE, with the role asv_reader")
