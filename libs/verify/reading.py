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
    """`take` events: each decodes, by upcasts where it is old. With `also`, what is decoded is told."""

    def __init__(self, events: Registry) -> None:
        self.faults: list[Fault] = []
        self._events = events

    def take(self, records: Sequence[Recorded]) -> None:
        try:
            found = self._events.events(records)
        except BAD:
            found = [self._one(recorded) for recorded in records]
        if None in found:
            for recorded, event in zip(records, found, strict=True):
                if event is None and not self._events.knows(recorded.type):
                    said = f"is of type {recorded.type} (version {recorded.v}), which this release does not know"
                    self.faults.append(Fault(f"position {recorded.position}", said))

    def finish(self) -> None:
        return None

    def _one(self, recorded: Recorded) -> Any:
        try:
            return self._events.event(recorded)
        except UnknownType:
            return None
        except BAD as error:
            said = f"cannot be read as {recorded.type} (version {recorded.v}) by this release: {type(error).__name__}: {error}"
            self.faults.append(Fault(f"position {recorded.position}", said))
            return None
