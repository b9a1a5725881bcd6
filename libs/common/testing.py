"""The words of a decider's tests: given these events, when this command, then those events.

    vm = Spec(VM)
    vm.given(defined, started).when(StopVm(vm="a")).then(VmStopRequested(...))
    vm.given().when(StopVm(vm="a")).refused(Refusal.NOT_DEFINED)
    vm.given(defined).when(DeleteVm(vm="a")).then(VmDeleted(vm="a")).twice()

Everything is checked on the way: events are of the decider's union and survive the wire, and the sentence of a refusal is
not empty. Failures are AssertionErrors that show both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import msgspec

from libs.common.decider import Decider, Refused


@dataclass(frozen=True, slots=True)
class Spec[C, S, E]:
    """A decider under test."""

    decider: Decider[C, S, E]

    def given(self, *events: E) -> Given[C, S, E]:
        return Given(self.decider, self.decider.fold(_checked(self.decider, events)))


@dataclass(frozen=True, slots=True)
class Given[C, S, E]:
    decider: Decider[C, S, E]
    state: S

    def when(self, command: C) -> Outcome[C, S, E]:
        """Decide; any exception but Refused passes through: it is a bug."""
        try:
            events = tuple(self.decider.decide(command, self.state))
        except Refused as refused:
            return Outcome(self.decider, self.state, command, (), refused)
        return Outcome(self.decider, self.state, command, _checked(self.decider, events), None)

    def is_state(self, state: S) -> None:
        """The history leads here."""
        assert self.state == state, f"\n state: {self.state}\n awaited: {state}"

    def settles(self, *commands: C) -> None:
        """Each of these is answered here, by events or a refusal; said again at once it changes nothing more."""
        for command in commands:
            again = Given(self.decider, self._after(command)).when(command)
            assert not again.events, f"{command} twice:{_lines(again.events)}"

    def _after(self, command: C) -> S:
        return self.decider.fold(self.when(command).events, self.state)

    def survives_the_wire(self) -> None:
        """The state that the history leads to, as snapshots keep it."""
        wire = msgspec.msgpack.encode(self.state)
        assert msgspec.msgpack.decode(wire, type=self.decider.state) == self.state, f"{self.state} does not survive the wire"


@dataclass(frozen=True, slots=True)
class Outcome[C, S, E]:
    decider: Decider[C, S, E]
    before: S
    command: C
    events: tuple[E, ...]
    refusal: Refused | None

    def then(self, *events: E) -> Self:
        """Exactly these, in this order."""
        assert self.refusal is None, f"{self.command} was refused: {self.refusal}"
        assert self.events == events, f"{self.command}\n decided: {_lines(self.events)}\n awaited: {_lines(events)}"
        return self

    def nothing(self) -> Self:
        """Accepted, and nothing had to change."""
        return self.then()

    def refused(self, reason: StrEnum) -> Self:
        """Refused for this reason, with a sentence."""
        assert self.refusal is not None, f"{self.command} was not refused but decided: {_lines(self.events)}"
        assert self.refusal.reason == reason, f"{self.command} was refused: {self.refusal}; awaited {reason}"
        assert self.refusal.sentence, f"{self.command}: the refusal {reason} has no sentence"
        return self

    def to_state(self, state: S) -> Self:
        """What was decided leads here."""
        after = self.decider.fold(self.events, self.before)
        assert after == state, f"{self.command}\n state: {after}\n awaited: {state}"
        return self

    def twice(self, reason: StrEnum | None = None) -> Self:
        """Said a second time it changes nothing, or is refused for `reason`."""
        again = Given(self.decider, self.decider.fold(self.events, self.before)).when(self.command)
        if reason is None:
            again.nothing()
        else:
            again.refused(reason)
        return self


def _checked[C, S, E](decider: Decider[C, S, E], events: Sequence[E]) -> tuple[E, ...]:
    """The events, once each was seen to belong here and to come back from the wire as it went."""
    for event in events:
        kind: Any = type(event)
        assert kind in decider.events, f"{kind.__name__} is not an event of `{decider.kind}` streams"
        wire = msgspec.msgpack.encode(event)
        assert msgspec.msgpack.decode(wire, type=kind) == event, f"{event} does not survive the wire"
    return tuple(events)


def _lines(events: Sequence[Any]) -> str:
    return "".join(f"\n   {event}" for event in events) or "nothing"
