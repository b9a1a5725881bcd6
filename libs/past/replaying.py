"""A past log, read for the stepper that decides again (redecide.py): events, commands before those, and what was only answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from libs.past.deciding import Code
from libs.past.difference import Counts, Difference
from libs.past.redecide import WHOLE, Part, Redecider
from libs.past.source import Answers, Decided, Past, Sliced


class BadRange(Exception):
    """Positions that are not in the log. The sentence says which are."""


class Replayed(NamedTuple):
    """What came of it. first, last: the positions between which was decided; answers: were commands without events there to be
    decided again?"""

    difference: Difference | None
    counts: Counts
    first: int
    last: int
    answers: bool


def is_whole(past: Past) -> bool:
    """Are all positions there, from the first on?"""
    return not isinstance(past, Sliced) or past.whole


async def bounds(past: Past, first: int = 0, last: int = 0) -> tuple[int, int]:
    """Both ends of what is asked for; 0: of the log. Raises BadRange, LogError."""
    head = (await past.head()).position
    if first < 0 or last < 0:
        raise BadRange("positions are numbers from 1 on")
    if max(first, last) > head:
        raise BadRange(f"position {max(first, last)} is beyond the log, whose last event is {head}")
    if last and first > last:
        raise BadRange(f"from {first} to {last} there is nothing: the first position comes first")
    return first or 1, last or head


async def redecide(past: Past, code: Code, first: int = 0, last: int = 0, part: Part = WHOLE) -> Replayed:
    """Decides what was decided from `first` to `last`, up to the first difference; part: of which streams. Raises BadRange,
    LogError, Unreadable, and ValueError (a hole, two logs in one)."""
    first, last = await bounds(past, first, last)
    redecider = Redecider(code, first, part, is_whole(past))
    decided = _Ahead(past.commands(first - 1, last))
    answers = _Ahead(past.unwritten()) if isinstance(past, Answers) else None
    since_us = -1
    async for chunk in past.replay(0, last):
        if not chunk:
            continue
        if since_us < 0 and chunk[-1].position >= first:
            since_us = next(one.at_us for one in chunk if one.position >= first)
        redecider.hear([one async for one in decided.upto(chunk[-1].position, 0)])
        found = None
        if answers is not None:
            heard = [one async for one in answers.upto(0, chunk[-1].at_us) if 0 <= since_us <= one.at_us]
            found = redecider.hear_eventless(heard)
        found = found or redecider.take(chunk)
        if found is not None:
            return Replayed(found, redecider.counts, first, last, answers is not None)
    found = redecider.end()
    if found is None and answers is not None and last == (await past.head()).position:
        found = redecider.hear_eventless([one async for one in answers.rest()])
    return Replayed(found, redecider.counts, first, last, answers is not None)


class _Ahead:
    """Rows in order, taken up to a position or a time."""

    def __init__(self, chunks: AsyncIterator[Sequence[Decided]]) -> None:
        self._chunks = chunks
        self._rows: Sequence[Decided] = ()
        self._at = 0

    async def upto(self, position: int, at_us: int) -> AsyncIterator[Decided]:
        """Those of a position or a time up to that; the other one is 0."""
        while await self._more():
            row = self._rows[self._at]
            if row.position > position or (at_us and row.at_us > at_us):
                return
            self._at += 1
            yield row

    async def rest(self) -> AsyncIterator[Decided]:
        while await self._more():
            self._at += 1
            yield self._rows[self._at - 1]

    async def _more(self) -> bool:
        while self._at >= len(self._rows):
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return False
            self._rows, self._at = chunk, 0
        return True
