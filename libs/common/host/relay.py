"""The relay: publishes what is committed, only that, in order, at least once. A stepper.

    idle --read--> reading --records--> publishing --stored--> reading …
                      |none: wait for the head        |failed: read again from the last stored position

The message id is `INCARNATION-POSITION`, so that the bus drops what a restarted relay says again. The stored position only
saves work after a restart; correctness never rests on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.bus import Published
from libs.common.host.effects import Publish, Read, SaveMark
from libs.common.log import Group
from libs.common.messages import Delivered, Recorded, encode

BATCH_MAX = 1000
SAVE_EVERY = 2000
"""events between two stored positions: a restarted relay says at most so many again"""


def subject_of(recorded: Recorded) -> str:
    """`evt.<kind>.<stream>.<type>`; a stream's kind is its part before the first hyphen."""
    return f"evt.{recorded.stream.partition('-')[0]}.{recorded.stream}.{recorded.type}"


class Relay:
    """One per log. `position`: the last event known to be stored by the bus."""

    def __init__(self, incarnation: int, position: int, name: str = "relay") -> None:
        self.incarnation = incarnation
        self.position = position
        self.name = name
        self._saved = position
        self._last = position

    def start(self) -> Read:
        return Read(self.position, BATCH_MAX)

    def on_records(self, records: Sequence[Recorded]) -> Publish | Read:
        """With no records the same read is wanted again (the driver waits for the head first)."""
        if not records:
            return Read(self.position, BATCH_MAX)
        self._last = records[-1].position
        n = self.incarnation
        return Publish([Published(subject_of(r), f"{n}-{r.position}", encode(Delivered(n, r))) for r in records])

    def on_published(self, ok: bool) -> list[Read | SaveMark]:
        if not ok:
            return [Read(self.position, BATCH_MAX)]
        self.position = self._last
        if self.position - self._saved < SAVE_EVERY:
            return [Read(self.position, BATCH_MAX)]
        self._saved = self.position
        return [SaveMark(self.mark()), Read(self.position, BATCH_MAX)]

    def mark(self) -> Group:
        return Group(units=(), consumer=self.name, mark=self.position)
