"""Whether today's code can read every event. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from libs.common.messages import Recorded
from libs.common.registry import Registry, UnknownType
from libs.verify import Fault

BAD = (msgspec.DecodeError, UnknownType, KeyError, TypeError, ValueError)
"""what decoding and upcasting an event raises where its bytes are not its type's"""


class Reading:
    """`take` events: each decodes, by upcasts where it is old. `of` says what they are, to those that take them next."""

    def __init__(self, events: Registry) -> None:
        self.faults: list[Fault] = []
        self._events = events
        self._taken: tuple[Sequence[Recorded], Sequence[Any]] = (), ()

    def of(self, records: Sequence[Recorded]) -> Sequence[Any] | None:
        """What these say, None for a type that nobody knows; None, where they are not those that were taken last, or not all of
        them could be read."""
        taken, events = self._taken
        return events if taken is records else None

    def take(self, records: Sequence[Recorded]) -> None:
        try:
            found = self._events.events(records)
            self._taken = records, found
        except BAD:
            found = [self._one(recorded) for recorded in records]
            self._taken = (), ()
        if None in found:
            for recorded, event in zip(records, found, strict=True):
                if event is None and not self._events.knows(recorded.type):
                    said = f"is of type {recorded.type} (version {recorded.v}), which this release does not know"
                    self.faults.append(Fault(f"position {recorded.position}", said))

    def finish(self) -> None:
        self._taken = (), ()

    def _one(self, recorded: Recorded) -> Any:
        try:
            return self._events.event(recorded)
        except UnknownType:
            return None
        except BAD as error:
            said = f"cannot be read as {recorded.type} (version {recorded.v}) by this release: {type(error).__name__}: {error}"
            self.faults.append(Fault(f"position {recorded.position}", said))
            return None
