"""Which protocol a process speaks: a range, so that neighbouring releases (N and N-1) work together.

The protocol is one number for all that crosses a process boundary: commands, orders, facts, events, the HTTP API. It rises with
a release that an older one would not understand. A process says `PROTOCOL_MIN` to `PROTOCOL`; two understand each other where
their ranges meet. New versions of events are written only once the cluster was finalized at the protocol that brought them.
"""

from __future__ import annotations

from typing import NamedTuple

PROTOCOL = 2
PROTOCOL_MIN = 1


class Range(NamedTuple):
    """From the oldest to the newest protocol that a process speaks, both included."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        return f"{self.oldest}-{self.newest}"


OURS = Range(PROTOCOL_MIN, PROTOCOL)


def compatible(a: Range, b: Range) -> bool:
    """There is a protocol that both speak."""
    return a.oldest <= b.newest and b.oldest <= a.newest


def parse(text: str) -> Range:
    """`MIN-MAX` of the header `Asv-Protocol`. Raises ValueError with what would be right."""
    oldest, dash, newest = text.strip().partition("-")
    small = len(text) <= 16 and oldest.isascii() and newest.isascii()
    if not (dash and small and oldest.isdigit() and newest.isdigit() and int(oldest) <= int(newest)):
        raise ValueError(f"the protocol range is {text[:32]!r}; MIN-MAX was expected, such as {OURS}")
    return Range(int(oldest), int(newest))
