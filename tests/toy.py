"""A toy service for tests of the host: counters that may be raised up to a limit, and echo what another counter did."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from libs.common.decider import Decider, Refused
from libs.common.host.service import Order, Service
from libs.common.messages import Command, Event, Fact, Message, Name, NodeId, Recorded, Tick


class Refusal(StrEnum):
    TOO_HIGH = "TOO_HIGH"


class Raise(Command):
    counter: Name
    by: int = 1


class SeeRaised(Fact):
    counter: Name
    by: int


class Expire(Tick):
    counter: Name


class Break(Command):
    """Its decision raises something that is no refusal."""

    counter: Name


class Raised(Event):
    counter: str
    by: int


class Renamed(Event):
    """Of two versions: the first had no `why`."""

    VERSION = 2
    SINCE = 2
    counter: str
    name: str
    why: str = ""


class Rename(Command):
    counter: Name
    name: str
    why: str = ""


class OrderCounter(Message):
    counter: Name
    total: int
    correlation: str = ""


class Total(msgspec.Struct, frozen=True, tag=True):
    total: int = 0
    name: str = ""
    why: str = ""


UPCASTS: dict[tuple[str, int], Any] = {("renamed", 1): lambda body: body | {"why": "not said"}}
DOWNCASTS: dict[tuple[str, int], Any] = {("renamed", 2): lambda body: {k: body[k] for k in body if k != "why"}}

LIMIT = 100


def decide(command: Raise | SeeRaised | Expire | Break | Rename, state: Total) -> Sequence[Raised | Renamed]:
    match command:
        case Raise(counter=counter, by=by):
            if state.total + by > LIMIT:
                raise Refused(Refusal.TOO_HIGH, f"{state.total} + {by} is over {LIMIT}", "raise by less")
            return [Raised(counter=counter, by=1) for _ in range(by)]
        case SeeRaised(counter=counter, by=by):
            return [Raised(counter=counter, by=by)] if by else []
        case Expire(counter=counter):
            return [Raised(counter=counter, by=-state.total)] if state.total > 90 else []
        case Rename(counter=counter, name=name, why=why):
            return [Renamed(counter=counter, name=name, why=why)]
        case Break():
            raise ZeroDivisionError


def evolve(state: Total, event: Raised | Renamed) -> Total:
    if isinstance(event, Renamed):
        return msgspec.structs.replace(state, name=event.name, why=event.why)
    return msgspec.structs.replace(state, total=state.total + event.by)


COUNTER: Decider[Any, Total, Raised | Renamed] = Decider(
    kind="counter",
    commands=(Raise, SeeRaised, Expire, Break, Rename),
    events=(Raised, Renamed),
    state=Total,
    key=lambda command: command.counter,
    initial=Total(),
    decide=decide,
    evolve=evolve,
)


def react(event: Raised | Renamed, recorded: Recorded, views: Any) -> Sequence[Command]:
    """`a` is echoed by `a-echo` and by `all-echo`."""
    if isinstance(event, Renamed) or event.counter.endswith("echo"):
        return ()
    return [Raise(counter=f"{event.counter}-echo"), Raise(counter="all-echo")]


def orders(stream: str, state: Total, version: int) -> Order | None:
    if stream != "counter-ordered":
        return None
    return Order(NodeId("n1"), OrderCounter(counter="ordered", total=state.total))


TOY = Service("toy", deciders=(COUNTER,), react=react, orders=orders)
"""One that is quiet: no reactions."""
QUIET = Service("toy", deciders=(COUNTER,))
