"""Which past log is meant: a word that people give."""

from __future__ import annotations

import os
from pathlib import Path

from libs.common.log import LogError, Unavailable
from libs.past.aslog import ENDING, AslogPast, BadAslog
from libs.past.postgres import PostgresPast
from libs.past.source import Past

DSN = ("postgresql://", "postgres://")


def archive_folder() -> Path | None:
    """As ASV_LOG_ARCHIVE says."""
    said = os.environ.get("ASV_LOG_ARCHIVE", "")
    return Path(said) if said else None


async def open_past(where: str) -> Past:
    """where: the address of a database, `postgresql://…`, or a file, `NAME.aslog`. The folder of the database's archives is said by
    ASV_LOG_ARCHIVE, where it is not the one they were written to. Raises LogError, Unavailable."""
    if where.startswith(DSN):
        return await PostgresPast.open(where, archive=archive_folder())
    if where.endswith(ENDING):
        return AslogPast.open(Path(where))
    raise LogError(f"`{where}` is no log: write postgresql://ROLE@HOST/DATABASE, with the role asv_reader, or a file NAME{ENDING}")


async def opened(log: str) -> Past:
    """The same for a program that reads one. Raises BadAslog for a file that may not be believed; Unavailable where it is not to be
    had, whyever."""
    try:
        return await open_past(log)
    except BadAslog:
        raise
    except LogError as error:
        raise Unavailable(str(error)) from error
