"""The log that is to be replayed."""

from __future__ import annotations

from libs.common.log import LogError, Unavailable
from libs.past.aslog import BadAslog
from libs.past.source import Past
from libs.past.where import open_past


async def opened(log: str) -> Past:
    """Raises BadAslog for a file that may not be believed; Unavailable where it is not to be had, whyever."""
    try:
        return await open_past(log)
    except BadAslog:
        raise
    except LogError as error:
        raise Unavailable(str(error)) from error
