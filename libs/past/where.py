"""Which past log is meant: a word that people give."""

from __future__ import annotations

from pathlib import Path

from libs.common.log import LogError
from libs.past.aslog import ENDING, AslogPast
from libs.past.postgres import PostgresPast
from libs.past.source import Past

DSN = ("postgresql://", "postgres://")


async def open_past(where: str) -> Past:
    """where: the address of a database, `postgresql://…`, or a file, `NAME.aslog`. Raises LogError, Unavailable."""
    if where.startswith(DSN):
        return await PostgresPast.open(where)
    if where.endswith(ENDING):
        return AslogPast.open(Path(where))
    raise LogError(f"`{where}` is no log: write postgresql://ROLE@HOST/DATABASE, with the role asv_reader, or a file NAME{ENDING}")
