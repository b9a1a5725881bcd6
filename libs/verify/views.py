"""What two views of one service have apart, but for what does not come from the log. Pure.

A part of views names the fields that telemetry or the clock fills beside the log in `NOT_OF_LOG`; all else is folded, and equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from libs.common.messages import Recorded
from libs.verify import Fault
from libs.verify.reading import BAD


def differing(one: Any, other: Any, path: str = "views") -> Iterator[str]:
    """Paths to what is not the same, as `views.nodes[n1].pools`."""
    if type(one) is not type(other):
        yield path
    elif is_dataclass(one):
        skipped = getattr(one, "NOT_OF_LOG", ())
        for each in fields(one):
            if each.name not in skipped:
                yield from differing(getattr(one, each.name), getattr(other, each.name), f"{path}.{each.name}")
    elif isinstance(one, dict):
        for key in sorted(one.keys() ^ other.keys(), key=str):
            yield f"{path}[{key}]"
        for key in sorted(one.keys() & other.keys(), key=str):
            yield from differing(one[key], other[key], f"{path}[{key}]")
    elif one != other:
        yield path


def compared(who: str, position: int, kept: Any, folded: Any) -> Iterator[Fault]:
    """kept: as they were read from a snapshot of that position; folded: from the log."""
    written = msgspec.msgpack.decode(msgspec.msgpack.encode(folded), type=type(kept))  # as they go into a snapshot
    apart = list(differing(kept, written))
    if apart:
        more = f", nor are {len(apart) - 1} more parts" if len(apart) > 1 else ""
        yield Fault(who, f"{apart[0]} is not what the log gives at position {position}{more}")


class Picture:
    """Views that are told of all events one by one, up to the position of a snapshot of them. `take` events from the first one on,
    then `finish`. fresh: such views that were told nothing."""

    def __init__(self, who: str, position: int, kept: Any, fresh: Any) -> None:
        self.faults: list[Fault] = []
        self._who, self._position, self._kept, self._views = who, position, kept, fresh

    def take(self, records: Sequence[Recorded]) -> None:
        for recorded in records:
            if self._views is None or recorded.position > self._position:
                return
            try:
                self._views.apply(recorded)
            except BAD as error:
                self._views = None
                said = f"cannot be shown: {type(error).__name__}: {error}; {self._who} was not compared"
                self.faults.append(Fault(f"position {recorded.position}", said))
                return
            if recorded.position == self._position:
                self.faults += compared(self._who, self._position, self._kept, self._views)

    def finish(self) -> None:
        return None
