"""The test words themselves: they pass what is right, and what they fail they show."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import pytest

from libs.common.decider import Decider, Refused
from libs.common.messages import Command, Event
from libs.common.testing import Spec


class Why(StrEnum):
    OPEN_ALREADY = "OPEN_ALREADY"
    NO_SENTENCE = "NO_SENTENCE"


class OpenDoor(Command):
    door: str


class CloseDoor(Command):
    door: str


class DoorOpened(Event):
    door: str


class DoorClosed(Event):
    door: str


class Stray(Event):
    door: str


def decide(command: OpenDoor | CloseDoor, is_open: bool) -> Sequence[DoorOpened | DoorClosed]:
    match command:
        case OpenDoor(door="odd"):
            raise Refused(Why.NO_SENTENCE, "")
        case OpenDoor(door="stray"):
            return [Stray(door="stray")]  # type: ignore[list-item]  # the mistake under test
        case OpenDoor() if is_open:
            raise Refused(Why.OPEN_ALREADY, "the door is open")
        case OpenDoor():
            return [DoorOpened(door=command.door)]
        case CloseDoor():
            return [DoorClosed(door=command.door)] if is_open else []


DOOR = Spec(
    Decider[OpenDoor | CloseDoor, bool, DoorOpened | DoorClosed](
        kind="door",
        commands=(OpenDoor, CloseDoor),
        events=(DoorOpened, DoorClosed),
        state=bool,
        key=lambda c: c.door,
        initial=False,
        decide=decide,
        evolve=lambda _, event: isinstance(event, DoorOpened),
    )
)
OPENED, CLOSED = DoorOpened(door="a"), DoorClosed(door="a")


def test_the_words() -> None:
    DOOR.given().is_state(False)
    DOOR.given().when(OpenDoor(door="a")).then(OPENED).to_state(True).twice(Why.OPEN_ALREADY)
    DOOR.given(OPENED).when(OpenDoor(door="a")).refused(Why.OPEN_ALREADY)
    DOOR.given(OPENED, CLOSED).when(CloseDoor(door="a")).nothing()
    DOOR.given(OPENED).when(CloseDoor(door="a")).then(CLOSED).twice()


def test_what_they_fail() -> None:
    with pytest.raises(AssertionError, match="awaited"):
        DOOR.given().when(OpenDoor(door="a")).then(CLOSED)
    with pytest.raises(AssertionError, match="was refused"):
        DOOR.given(OPENED).when(OpenDoor(door="a")).nothing()
    with pytest.raises(AssertionError, match="not refused"):
        DOOR.given().when(OpenDoor(door="a")).refused(Why.OPEN_ALREADY)
    with pytest.raises(AssertionError, match="has no sentence"):
        DOOR.given().when(OpenDoor(door="odd")).refused(Why.NO_SENTENCE)
    with pytest.raises(AssertionError, match="not an event of `door`"):
        DOOR.given().when(OpenDoor(door="stray"))
    with pytest.raises(AssertionError, match="awaited OPEN"):
        DOOR.given().when(OpenDoor(door="odd")).refused(Why.OPEN_ALREADY)
    with pytest.raises(AssertionError, match="state"):
        DOOR.given().is_state(True)
