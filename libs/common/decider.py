"""The one shape all services have: decide(command, state) -> events; evolve(state, event) -> state."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce


class Refused(Exception):
    """The rules say no. Expected, answered to the asker, recorded with the command, never logged as an error.

    reason: an enum member; sentence: what was wrong, with the numbers; remedy: what would have to change for a yes.
    """

    def __init__(self, reason: StrEnum, sentence: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {sentence}")
        self.reason = reason
        self.sentence = sentence
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Decider[C, S, E]:
    """A stream's rules. `kind` is the prefix of its streams: `vm` owns `vm-web-1`.

    key       the part of the stream's name behind the prefix, from a command
    commands  the closed union of commands, events likewise; state: the union of states (all tagged Structs)
    alone     its streams are of one object each: their events stay with its project and owner, also where what belongs to another
              led to them
    absorb    as evolve, of a state that nobody else has or will look at again: it may be changed in place, where that saves copies.
              Only a folding that owns its states asks it (libs/common/host/folding.py). None: evolve
    """

    kind: str
    commands: tuple[type[C], ...]
    events: tuple[type[E], ...]
    state: object
    key: Callable[[C], str]
    initial: S
    decide: Callable[[C, S], Sequence[E]]
    evolve: Callable[[S, E], S]
    alone: bool = False
    absorb: Callable[[S, E], S] | None = None

    def stream(self, command: C) -> str:
        return f"{self.kind}-{self.key(command)}"

    def fold(self, events: Iterable[E], state: S | None = None) -> S:
        return reduce(self.evolve, events, self.initial if state is None else state)
