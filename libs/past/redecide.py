"""Recorded commands, decided again by today's code. A stepper; it knows no service but the one it is given.

    events in log order ──▶ fold the service's own streams ──▶ before the first event of a command: decide it on the state that is
                                                               there, compare answer and events, go on with what is recorded

A stream's version says which state a command was decided on (docs/decisions/0038): the first event's version less one; of a command
that wrote none, the version in its answer. Streams do not know of each other, so the state of each is all that is in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

from libs.common.decider import Decider
from libs.common.host.versions import FINALIZED
from libs.common.messages import Recorded, encode
from libs.past.deciding import Code, Produced, Slot
from libs.past.difference import Counts, Difference, difference
from libs.past.source import Decided


class Part(NamedTuple):
    """Of the streams: each is in one of `of` parts. Streams do not know of each other, so parts can be decided side by side."""

    number: int
    of: int

    def has(self, stream: str) -> bool:
        return self.of == 1 or crc32(stream.encode()) % self.of == self.number


WHOLE = Part(0, 1)
NEW = Slot("", Decider("", (), (), None, lambda command: "", None, lambda command, state: (), lambda state, event: state), None)
"""in place of a slot: the stream was not met yet"""


class Redecider:
    """`hear` commands that wrote events in the order of their positions, those that wrote none in the order of their times, each
    before the events that they go with; then `take` those. first: what was decided before this position is folded only. whole: are
    all positions there? Of a slice only the versions of streams say whether something is missing."""

    def __init__(self, code: Code, first: int = 1, part: Part = WHOLE, whole: bool = True) -> None:
        self.code = code
        self.whole = whole
        self._part = part
        self.counts = Counts()
        self.slots: dict[str, Slot | None] = {}
        """None: a stream of another service, or not of this part"""
        self.first = first
        self._decided: deque[Decided] = deque()
        self._left: Sequence[Recorded] = ()
        self._next = 1

    @property
    def position(self) -> int:
        """All events up to here are folded."""
        return self._next - 1

    def hear(self, decided: Iterable[Decided]) -> None:
        self._decided.extend(decided)

    def hear_eventless(self, decided: Iterable[Decided]) -> Difference | None:
        """Decides those whose stream is at their version; the others wait for it."""
        for one in decided:
            slot = self._slot(one.stream)
            if slot is None:
                continue
            slot.eventless = (*slot.eventless, one)
            if (found := self._ripe(slot)) is not None:
                return found
        return None

    def take(self, records: Sequence[Recorded]) -> Difference | None:
        """Events in log order, from the first on. Stops at the first difference; what comes behind it is not folded. Raises
        Unreadable, and ValueError for a hole in the events."""
        if self._left:
            records, self._left = [*self._left, *records], ()
        self._gapless(records)
        at, end, slots, unknown = 0, len(records), self.slots, self._slot
        while at < end:
            recorded = records[at]
            slot = slots.get(recorded.stream, NEW)
            if slot is NEW:
                slot = unknown(recorded.stream)
            if recorded.type == FINALIZED:
                self.code.hear(recorded)
            if slot is None:
                at += 1
                continue
            self._next = recorded.position
            found, count = self._own(slot, records, at)
            if found is not None:
                return found
            if not count:  # the rest of its command's events is in the next chunk
                self._left = records[at:]
                return None
            if slot.eventless and (found := self._ripe(slot)) is not None:
                return found
            at += count
        if records:
            self._next = records[-1].position + 1
        return None

    def _gapless(self, records: Sequence[Recorded]) -> None:
        """Raises ValueError for a hole; in a slice, for what is not in order."""
        if [recorded.position for recorded in records] == list(range(self._next, self._next + len(records))):
            return
        expected = self._next
        for recorded in records:
            if recorded.position < expected or (self.whole and recorded.position > expected):
                raise ValueError(f"the log has a gap: event {expected} is missing, {recorded.position} comes next")
            expected = recorded.position + 1

    def end(self) -> Difference | None:
        """There are no more events. A command some of whose events are beyond the end is not decided."""
        left, self._left = self._left, ()
        if not left:
            return None
        self.counts.cut += 1
        self._decided.popleft()
        return self.take(left)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _slot(self, stream: str) -> Slot | None:
        slot = self.slots.get(stream, NEW)
        if slot is NEW:
            slot = self.slots[stream] = self.code.slot(stream) if self._part.has(stream) else None
        return slot

    def _own(self, slot: Slot, records: Sequence[Recorded], at: int) -> tuple[Difference | None, int]:
        """An own stream's next event, with those of the same command: what differs, and how many they are (0: not all are here)."""
        recorded = records[at]
        decided = self._asked(recorded)
        if decided is None:
            self.code.fold(slot, recorded, self.code.event(recorded))
            self.counts.folded += 1
            return None, 1
        if recorded.version != slot.version + 1:
            self.code.fold(slot, recorded, None)  # says what is wrong
        if decided.stream != slot.name:
            raise ValueError(
                f"event {recorded.position} is of {slot.name}, and command {decided.id}, which is said to have written it, was for "
                f"{decided.stream}: the log is two logs in one"
            )
        command, task = self.code.command(decided)
        produced = self.code.decide(command, task, slot)
        answered = encode(produced.reply) == decided.outcome
        count = len(produced.events) if answered else self._wrote(decided, slot)
        mine = records[at : at + count]
        if len(mine) < count:
            return None, 0
        self._decided.popleft()
        self.counts.decided += 1
        self.counts.folded += count
        if not (answered and self._written(mine, produced)):
            if (found := difference(self.code, decided, command, slot, mine, produced)) is not None:
                return found, count
            for one in mine:
                self.code.fold(slot, one, self.code.event(one))
            return None, count
        evolve, state = slot.decider.evolve, slot.state
        for event, _, _ in produced.events:
            state = evolve(state, event)
        slot.state = state
        slot.version += count
        return None, count

    def _written(self, mine: Sequence[Recorded], produced: Produced) -> bool:
        """To the byte."""
        tags = self.code.tags
        for one, (event, v, data) in zip(mine, produced.events, strict=True):
            if one.data != data or one.v != v or one.type != tags[type(event)]:
                return False
        return True

    def _asked(self, recorded: Recorded) -> Decided | None:
        """The command whose first event this is, where it was kept and is to be decided."""
        waiting, position = self._decided, recorded.position
        while waiting and waiting[0].position < position:
            waiting.popleft()
        if waiting and waiting[0].position == position:
            return waiting[0] if position >= self.first else None
        self.counts.unasked += position >= self.first
        return None

    def _ripe(self, slot: Slot) -> Difference | None:
        """Decides the commands without events whose version is there."""
        versions = [self.code.answer(one).version for one in slot.eventless]
        ripe = [one for one, version in zip(slot.eventless, versions, strict=True) if version == slot.version]
        self.counts.late += sum(version < slot.version for version in versions)
        slot.eventless = tuple(one for one, version in zip(slot.eventless, versions, strict=True) if version > slot.version)
        for one in ripe:
            self.counts.eventless += 1
            command, task = self.code.command(one)
            produced = self.code.decide(command, task, slot)
            if (produced.events or encode(produced.reply) != one.outcome) and (
                found := difference(self.code, one, command, slot, (), produced)
            ) is not None:
                return found
        return None

    def _wrote(self, decided: Decided, slot: Slot) -> int:
        """How many events it wrote, by its answer; at least the one that is there."""
        return max(self.code.answer(decided).version - slot.version, 1)
