"""Words that sentences share. Pure."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """`1 disk`, `2 disks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
