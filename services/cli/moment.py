"""A moment of the past as an operator writes it: a time without a zone is that of the terminal. All else is the gateway's to read
(services/gateway/past/moment.py), and to complain of."""

from __future__ import annotations


def zoned(text: str) -> str:
    """With the local zone where it is a time and names none; anything else as it is."""
    if len(text) < len("2026-11-20") or text[4:5] != "-":
        return text
    from datetime import datetime  # here: most commands ask of now, and start faster without it

    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    return (time if time.tzinfo is not None else time.astimezone()).isoformat()
