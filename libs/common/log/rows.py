"""What is in a log, as what was appended to it: events and recorded commands become units again. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from libs.common.log import CommandRow, NewEvent, Unit
from libs.common.messages import Recorded, decode_meta


class Row(NamedTuple):
    """A recorded command: the position of its first event (0: none), and when it was written."""

    position: int
    at_us: int
    id: str
    stream: str
    payload: bytes
    outcome: bytes


def batches(events: Sequence[Recorded], rows: Sequence[Row], versions: dict[str, int]) -> Iterator[tuple[int, list[Unit]]]:
    """(when, what was written then). versions: of the streams, counted here."""
    wrote = {row.position: row for row in rows if row.position}
    told = sorted((row for row in rows if not row.position), key=lambda row: (row.at_us, row.id))
    at = 0
    for at_us, group in groupby(events, lambda event: event.at_us):
        while at < len(told) and told[at].at_us < at_us:
            yield told[at].at_us, [_answer(told[at], versions)]
            at += 1
        units = list(_units(list(group), wrote, versions))
        while at < len(told) and told[at].at_us == at_us:
            units.append(_answer(told[at], versions))
            at += 1
        yield at_us, units
    for row in told[at:]:
        yield row.at_us, [_answer(row, versions)]


def _answer(row: Row, versions: Mapping[str, int]) -> Unit:
    return Unit(row.stream, versions.get(row.stream, 0), (), CommandRow(row.id, row.payload, row.outcome))


def _units(events: list[Recorded], wrote: Mapping[int, Row], versions: dict[str, int]) -> Iterator[Unit]:
    at = 0
    while at < len(events):
        first, end = events[at], at + 1
        row = wrote.get(first.position)
        command = decode_meta(first.meta).command
        while row and end < len(events) and events[end].stream == first.stream and _command(events[end]) == command:
            end += 1
        news = tuple(NewEvent(one.type, one.v, one.data, one.meta) for one in events[at:end])
        versions[first.stream] = first.version - 1 + len(news)
        yield Unit(first.stream, first.version - 1, news, CommandRow(row.id, row.payload, row.outcome) if row else None)
        at = end


def _command(event: Recorded) -> str:
    return decode_meta(event.meta).command
