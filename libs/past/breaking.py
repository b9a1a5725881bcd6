"""The first event at which a condition on states broke: it held before, and does not any more. Pure.

`scan` looks after every event and finds the first break there is. `halve` looks at a few positions only, and finds the first for
certain only where the condition, once broken, stays so: of several breaks it finds any one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from libs.common.messages import Recorded
from libs.past.condition import BadCondition, Condition, Scene
from libs.past.deciding import Code
from libs.past.fields import Field, differing


class NoSuchStream(BadCondition):
    """No service that is here has streams of that kind, or the log has no event of it."""


class Broke(NamedTuple):
    """`by` broke it; before, after: the states of the streams that the condition names. looks: how often it was asked."""

    by: Recorded
    before: dict[str, Any]
    after: dict[str, Any]
    looks: int

    def fields(self) -> list[Field]:
        return list(differing(self.before, self.after))


class History:
    """The streams that a condition names, with the state behind each of their events. `events`: of them all, in log order."""

    def __init__(self, codes: Mapping[str, Code], events: Sequence[Recorded]) -> None:
        """codes: by kind of stream. Raises Unreadable, ValueError."""
        self.events = events
        self._positions: dict[str, list[int]] = {}
        self._states: dict[str, list[Any]] = {}
        slots: dict[str, Any] = {}
        for recorded in events:
            code = codes[recorded.stream.partition("-")[0]]
            slot = slots.get(recorded.stream) or slots.setdefault(recorded.stream, code.slot(recorded.stream))
            assert slot is not None
            code.fold(slot, recorded, code.event(recorded))
            self._positions.setdefault(recorded.stream, []).append(recorded.position)
            self._states.setdefault(recorded.stream, []).append(slot.state)

    @property
    def streams(self) -> set[str]:
        """Those that there are."""
        return set(self._positions)

    def at(self, position: int, stream: str) -> tuple[Any, int] | None:
        """(state, version) once that position is in."""
        version = bisect_right(self._positions.get(stream, ()), position)
        return (msgspec.to_builtins(self._states[stream][version - 1]), version) if version else None

    def holds(self, condition: Condition, position: int) -> bool:
        return condition.holds(Scene({}, lambda stream: self.at(position, stream)))


def checked(text: str, kinds: Mapping[str, Code]) -> Condition:
    """A condition on states alone. Raises BadCondition."""
    condition = Condition(text)
    if condition.moves or not condition.streams:
        raise BadCondition(f"`{text}` is about one event; say what holds of a stream, as `vm-web-1.state.kind == \"Running\"`")
    for stream in condition.streams:
        if stream.partition("-")[0] not in kinds:
            raise NoSuchStream(f"`{stream}` is no stream: they begin with {', '.join(sorted(kinds))}")
    return condition


def held(condition: Condition, history: History, first: int, last: int) -> bool:
    """Before the first, or at any from there on?"""
    positions = [recorded.position for recorded in history.events if first <= recorded.position <= last]
    return any(history.holds(condition, position) for position in (first - 1, *positions))


def scan(condition: Condition, history: History, first: int, last: int) -> Broke | None:
    """None: it never held, or held to the end."""
    held, looks = history.holds(condition, first - 1), 1
    for recorded in history.events:
        if first <= recorded.position <= last:
            now = history.holds(condition, recorded.position)
            looks += 1
            if held and not now:
                return _broke(condition, history, recorded, looks)
            held = now
    return None


def halve(condition: Condition, history: History, first: int, last: int) -> Broke | None:
    """None: it holds at the end. Raises BadCondition where it does not hold at the beginning: there is nothing to halve."""
    events = [recorded for recorded in history.events if first <= recorded.position <= last]
    if not history.holds(condition, first - 1):
        said = f"`{condition.text}` does not hold before position {first}"
        raise BadCondition(f"{said}: begin where it does (--from), or leave out --monotonic")
    if not events or history.holds(condition, last):
        return None
    low, high, looks = -1, len(events) - 1, 2  # it holds behind `low`, and not behind `high`
    while high - low > 1:
        middle = (low + high) // 2
        looks += 1
        low, high = (middle, high) if history.holds(condition, events[middle].position) else (low, middle)
    return _broke(condition, history, events[high], looks)


def _broke(condition: Condition, history: History, recorded: Recorded, looks: int) -> Broke:
    def states(position: int) -> dict[str, Any]:
        return {stream: found[0] for stream in sorted(condition.streams) if (found := history.at(position, stream))}

    return Broke(recorded, states(recorded.position - 1), states(recorded.position), looks)
