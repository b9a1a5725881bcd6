"""Groups of many callers turned into the arrays of one append_batch call, and its answer turned back. Pure.

A group goes in only as far as it holds together by itself: a unit that contradicts an earlier one of its own group ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from libs.common.log import Appended, Conflict, Duplicate, Group, Unit
from libs.common.log.digest import DIGEST_BYTES, command_digest, event_digest

# asyncpg looks at each element of an array whether it is an array itself, which in a large batch costs more than all else; so
# there numbers and words travel as one text each, and the server's own parsers take them apart. A word is printable ASCII
# (checks.py): never a newline. In a small batch those parsers would cost more than they save.
_INTS, _BIGS, _FLAGS = "${}::text::int[]", "${}::text::bigint[]", "${}::text::boolean[]"
_WORDS, _BYTES = r"string_to_array(${}::text, E'\n', '')", "${}"
_KINDS = (
    *("${}", "${}"),  # incarnation, now_us
    *(_INTS, _WORDS, _INTS, _FLAGS, _INTS, _INTS),  # units: group, stream, expected, first, version, events
    *(_WORDS, _BYTES, _BYTES),  # commands: id, payload, outcome
    *(_INTS, _WORDS, _INTS, _WORDS, "${}::text::smallint[]", _BYTES, _BYTES, _BYTES),  # events
    *(_INTS, _WORDS, _BIGS),  # marks: unit, name, mark
    "${}",  # digests
)
APPEND = f"select * from asv.append_batch({', '.join(kind.format(n) for n, kind in enumerate(_KINDS, 1))})"  # noqa: S608 our own words
APPEND_FEW = f"select * from asv.append_batch({', '.join(f'${n}' for n in range(1, len(_KINDS) + 1))})"  # noqa: S608
NONE = bytes(DIGEST_BYTES)
"""in the place of a command's digest, where a unit has no command"""
FEW_MAX = 8
"""units up to which arrays travel as arrays"""


def _numbers(values: Sequence[int]) -> str:
    return f"{{{','.join(map(str, values))}}}"


def _flags(values: Sequence[bool]) -> str:
    return f"{{{','.join(['t' if value else 'f' for value in values])}}}"


def _words(values: Sequence[str]) -> str:
    return "\n".join(values)


class Outcome(NamedTuple):
    """What append_batch returned; `lost` maps a unit's number (from 1) to why it lost."""

    before: int
    at_us: int
    lost: dict[int, Conflict | Duplicate]


class Stopped(NamedTuple):
    """Where a group contradicts itself: `why`, or `repeats`: the index of the unit in it that has the same command id."""

    why: Conflict | None
    repeats: int
    probed: bool


class Batch:
    """Columns for append_batch. Units are numbered from 1 over the whole batch."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.bounds: list[tuple[int, int, Stopped | None]] = []  # per group: its first and behind its last unit, from 0
        self.u: tuple[list[Any], ...] = ([], [], [], [], [], [])  # group, stream, expected, first, version, events
        self.c: tuple[list[Any], ...] = ([], [], [])  # id, payload, outcome
        self.e: tuple[list[Any], ...] = ([], [], [], [], [], [], [])  # unit stream version type v data meta
        self.digests: tuple[list[bytes], list[bytes]] = ([], [])  # of events; of units' commands
        self.m: tuple[list[Any], ...] = ([], [], [])  # unit, name, mark
        self._commands = False

    def add(self, group: Group) -> None:
        start = len(self.units)
        stopped: Stopped | None = None
        number = len(self.bounds) + 1
        if len(group.units) == 1:
            self._add_unit(number, group.units[0], True)
        else:
            stopped = self._add_chain(number, group)
        end = len(self.units) - (stopped is not None and stopped.probed)
        self.bounds.append((start, end, stopped))
        if group.consumer:
            self._add_marks(group, start, end, stopped is None)

    def call(self, incarnation: int, now_us: int) -> tuple[str, tuple[Any, ...]]:
        """The statement, APPEND or APPEND_FEW, and the values of its parameters."""
        commands = self.c if self._commands else ([], [], [])
        digests = b"".join(self.digests[0] + self.digests[1] if self._commands else self.digests[0])
        if len(self.units) <= FEW_MAX:
            return APPEND_FEW, (incarnation, now_us, *self.u, *commands, *self.e, (), *self.m, digests)
        return APPEND, (incarnation, now_us, *self._texts(*commands), digests)

    def _texts(self, ids: list[Any], payloads: list[Any], outcomes: list[Any]) -> tuple[Any, ...]:
        groups, streams, expecteds, firsts, versions, counts = self.u
        e_unit, e_stream, e_version, e_type, e_v, e_data, e_meta = self.e
        m_unit, m_name, m_mark = self.m
        return (
            _numbers(groups), _words(streams), _numbers(expecteds), _flags(firsts), _numbers(versions), _numbers(counts),
            _words([id or "" for id in ids]), payloads, outcomes,
            _numbers(e_unit), _words(e_stream), _numbers(e_version), _words(e_type), _numbers(e_v), e_data, e_meta, (),
            _numbers(m_unit), _words(m_name), _numbers(m_mark),
        )  # fmt: skip

    def outcome(self, row: Any) -> Outcome:
        lost: dict[int, Conflict | Duplicate] = {}
        for number, version, outcome, position in zip(*(row[k] or () for k in (3, 4, 5, 6)), strict=True):
            stream = self.units[number - 1].stream
            lost[number] = Conflict(stream, version) if outcome is None else Duplicate(outcome, position)
        return Outcome(row[0], row[2], lost)

    def results(self, outcome: Outcome) -> list[Appended]:
        """What became of each group, in the order they were added."""
        before, at_us, lost = outcome
        results = []
        for start, end, stopped in self.bounds:
            positions = []
            why: Conflict | Duplicate | None = None
            for index in range(start, end):
                if lost and (why := lost.get(index + 1)) is not None:
                    break
                events = len(self.units[index].events)
                positions.append(before + 1 if events else before)
                before += events
            if why is None and stopped is not None:
                why = self.own_fault(stopped, start, positions, lost.get(end + 1))
            results.append(Appended(tuple(positions), at_us, why))
        return results

    def _add_chain(self, number: int, group: Group) -> Stopped | None:
        versions: dict[str, int] = {}
        ids: dict[str, int] = {}
        for unit in group.units:
            if unit.command is not None:
                if unit.command.id in ids:
                    return Stopped(None, ids[unit.command.id], False)
                ids[unit.command.id] = len(self.units)
            version = versions.get(unit.stream)
            if version is not None and version != unit.expected:
                # Its command may have been decided long ago, which goes before a conflict: a unit that is sure to lose asks.
                if unit.command is not None:
                    self._add_unit(number, Unit(unit.stream, -1, (), unit.command), True)
                return Stopped(Conflict(unit.stream, version), -1, unit.command is not None)
            versions[unit.stream] = unit.expected + len(unit.events)
            self._add_unit(number, unit, version is None)
        return None

    def _add_unit(self, number: int, unit: Unit, first: bool) -> None:
        self.units.append(unit)
        stream, expected, events, command, _ = unit.stream, unit.expected, unit.events, unit.command, unit.mark
        groups, streams, expecteds, firsts, versions, counts = self.u
        groups.append(number)
        streams.append(stream)
        expecteds.append(expected)
        firsts.append(first)
        versions.append(expected + len(events))
        counts.append(len(events))
        ids, payloads, outcomes = self.c
        if command is None:
            ids.append(None)
            payloads.append(None)
            outcomes.append(None)
            self.digests[1].append(NONE)
        else:
            self._commands = True
            ids.append(command.id)
            payloads.append(command.payload)
            outcomes.append(command.outcome)
            self.digests[1].append(command_digest(stream, command))
        e_unit, e_stream, e_version, e_type, e_v, e_data, e_meta = self.e
        digests = self.digests[0]
        for version, event in enumerate(events, expected + 1):
            e_unit.append(len(self.units))
            e_stream.append(stream)
            e_version.append(version)
            e_type.append(event.type)
            e_v.append(event.v)
            e_data.append(event.data)
            e_meta.append(event.meta)
            digests.append(event_digest(stream, version, event))

    def _add_marks(self, group: Group, start: int, end: int, whole: bool) -> None:
        marks = [(index + 1, unit.mark) for index, unit in enumerate(self.units[start:end], start) if unit.mark]
        if whole and group.mark:
            marks.append((end if group.units else 0, group.mark))
        for number, mark in marks:
            for column, value in zip(self.m, (number, group.consumer, mark), strict=True):
                column.append(value)

    def own_fault(
        self, stopped: Stopped, start: int, positions: Sequence[int], probe: Conflict | Duplicate | None
    ) -> Conflict | Duplicate:
        """Why a group that was written as far as it holds together ended there."""
        if isinstance(probe, Duplicate):
            return probe
        if stopped.why is not None:
            return stopped.why
        earlier = self.units[stopped.repeats]
        assert earlier.command is not None
        return Duplicate(earlier.command.outcome, positions[stopped.repeats - start] if earlier.events else 0)


def keys(group: Group) -> set[str]:
    """What two groups in flight may not share: streams and command ids, and the consumer they move."""
    found = {unit.stream for unit in group.units}
    found.update("\ncommand " + unit.command.id for unit in group.units if unit.command is not None)
    if group.consumer:
        found.add("\nconsumer " + group.consumer)
    return found
