"""Events with what they did: a log folded step by step, every state kept. Pure.

States are values that are never changed, so that keeping them all costs little beside the events; a step back is a look at the one
before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from libs.common.host.versions import FINALIZED
from libs.common.messages import Meta, Recorded, decode_meta
from libs.past.deciding import Code, Slot
from libs.past.difference import Difference, difference
from libs.past.source import Decided

WRITTEN_MAX = 1000
"""events of one command, as far as they are looked for"""


class Step(msgspec.Struct, frozen=True, gc=False):
    """One event. before, after: of its stream; service: whose it is; cause: the position of the event that led to its command, 0
    where none did; command: as it was kept, where it was; number: which of its command's events it is, from 0."""

    recorded: Recorded
    event: Any
    before: Any
    after: Any
    service: str
    meta: Meta
    cause: int
    command: Decided | None
    number: int


class Steps:
    """`take` all events from the first on; those before `first` are folded and not kept. whole: as Redecider has it."""

    def __init__(self, codes: Iterable[Code], first: int = 1, whole: bool = True) -> None:
        self.codes: dict[str, Code] = {kind: code for code in codes for kind in code.kinds}
        self.all: list[Step] = []
        self.first = first
        self._whole = whole
        self._positions: list[int] = []
        self._services = tuple({code.name: code for code in self.codes.values()}.values())
        self._owned: dict[str, tuple[Code, Slot]] = {}
        self._next = 1
        self._states: dict[str, list[tuple[int, Any, int]]] = {}
        """stream -> (position, state, version) behind each of its events, and what it was before the first one kept"""
        self._last: tuple[str, int, Decided | None] = ("", 0, None)

    def take(self, records: Sequence[Recorded], decided: Mapping[int, Decided]) -> None:
        """decided: by the position of the first event. Raises Unreadable, ValueError."""
        for recorded in records:
            if recorded.position < self._next or (self._whole and recorded.position > self._next):
                raise ValueError(f"the log has a gap: event {self._next} is missing, {recorded.position} comes next")
            self._next = recorded.position + 1
            code, slot = self._owned.get(recorded.stream) or self._begun(recorded)
            if recorded.type == FINALIZED:
                for other in self._services:
                    other.hear(recorded)
            before, version, event = slot.state, slot.version, code.event(recorded)
            code.fold(slot, recorded, event)
            if recorded.position >= self.first:
                self._keep(code, recorded, event, (before, version), slot, decided)
            elif recorded.position >= self.first - WRITTEN_MAX:
                self._of_command(recorded, decode_meta(recorded.meta), decided)

    def _begun(self, recorded: Recorded) -> tuple[Code, Slot]:
        kind = recorded.stream.partition("-")[0]
        code = self.codes.get(kind)
        if code is None:
            raise ValueError(
                f"event {recorded.position} is of {recorded.stream}: no service has streams `{kind}-…` here"
            )
        slot = code.slot(recorded.stream)
        assert slot is not None
        owned = self._owned[recorded.stream] = code, slot
        return owned

    def _keep(
        self, code: Code, recorded: Recorded, event: Any, was: tuple[Any, int], slot: Slot, decided: Mapping[int, Decided]
    ) -> None:  # fmt: skip
        before, version = was
        known = self._states.setdefault(recorded.stream, [(0, before, version)])
        known.append((recorded.position, slot.state, slot.version))
        meta = decode_meta(recorded.meta)
        command, number = self._of_command(recorded, meta, decided)
        self._positions.append(recorded.position)
        self.all.append(
            Step(recorded, event, before, slot.state, code.name, meta, position_of(meta.causation), command, number)
        )

    def _of_command(self, recorded: Recorded, meta: Meta, decided: Mapping[int, Decided]) -> tuple[Decided | None, int]:
        """(the command that wrote it, which of its events it is)"""
        id, number, command = self._last
        if (found := decided.get(recorded.position)) is not None or meta.command != id:
            command, number = found, 0
        else:
            number += 1
        self._last = (meta.command, number, command)
        return command, number

    def state(self, stream: str, position: int) -> tuple[Any, int] | None:
        """(state, version) of a stream once that position is in; None: it has not begun."""
        known = self._states.get(stream)
        if known is None:
            owned = self._owned.get(stream)
            return (owned[1].state, owned[1].version) if owned is not None and owned[1].version else None
        _, state, version = known[max(bisect_right(known, position, key=lambda one: one[0]) - 1, 0)]
        return (state, version) if version else None

    def index(self, position: int) -> int | None:
        """Where it is in `all`; None: it is not here."""
        found = bisect_left(self._positions, position)
        return found if self._positions[found : found + 1] == [position] else None

    def again(self, step: Step) -> Difference | None:
        """Its command decided again by the code that is here. Raises Unreadable, LookupError where the command was not kept or does
        not lie wholly in what was taken."""
        if step.command is None:
            raise LookupError("its command was not kept")
        start = self.index(step.command.position)
        if start is None:
            raise LookupError("its command lies before the first event that is here")
        mine = [one for one in self.all[start : start + WRITTEN_MAX] if one.command is step.command]
        code = self.codes[step.recorded.stream.partition("-")[0]]
        if len(mine) < code.answer(step.command).version - mine[0].recorded.version + 1:
            raise LookupError("its command goes on behind the last event that is here")
        command, task = code.command(step.command)
        slot = self._before(code, mine[0])
        return difference(
            code, step.command, command, slot, [one.recorded for one in mine], code.decide(command, task, slot)
        )

    def decision(self, step: Step) -> tuple[Any, Any, Any]:
        """(decide, command, state): what is needed to run it by hand. Raises as `again`."""
        if step.command is None:
            raise LookupError("its command was not kept")
        start = self.index(step.command.position)
        if start is None:
            raise LookupError("its command lies before the first event that is here")
        kind = step.recorded.stream.partition("-")[0]
        code = self.codes[kind]
        return code.kinds[kind].decide, code.weigh(code.command(step.command)[0]), self.all[start].before

    def _before(self, code: Code, first: Step) -> Slot:
        slot = code.slot(first.recorded.stream)
        assert slot is not None
        slot.state, slot.version = first.before, first.recorded.version - 1
        return slot


def position_of(causation: str) -> int:
    """Of `INCARNATION-POSITION`; 0 where there is none."""
    _, dash, position = causation.partition("-")
    return int(position) if dash and position.isdigit() else 0
