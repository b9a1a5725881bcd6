"""A moment of the past as an operator writes it: a time without a zone is that of the terminal. All else is the gateway's to read
(services/gateway/past/moment.py), and to complain of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.cli.failure import USAGE, Failure

if TYPE_CHECKING:
    from datetime import datetime


def zoned(text: str) -> str:
    """With the local zone where it is a time and names none; anything else as it is. Raises Failure for a time that the local
    clocks skip, or show twice."""
    if len(text) < len("2026-11-20") or text[4:5] != "-":
        return text
    from datetime import datetime  # here: most commands ask of now, and start faster without it

    try:
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo is not None else _local(time, text)).isoformat()
    except (ValueError, OverflowError):
        return text


def _local(naive: datetime, text: str) -> datetime:
    """Where clocks are set forward or back, the two readings of an hour differ."""
    first, second = naive.replace(fold=0).astimezone(), naive.replace(fold=1).astimezone()
    if first.utcoffset() == second.utcoffset():
        return first
    zones = f"{first:%z} or {second:%z}"
    if first.replace(tzinfo=None, fold=0) != naive.replace(fold=0):
        raise Failure(USAGE, f"{text}: the clocks of this time zone skip that time", "name a zone with it, as in 2026-11-20T14:03Z")
    raise Failure(USAGE, f"{text}: the clocks of this time zone show that time twice ({zones})", f"write which: {text}{first:%z}")
