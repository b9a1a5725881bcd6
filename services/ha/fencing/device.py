"""What every kind of fence device can do, and how it fails.

    DeviceError
      Unreachable       nobody answers at its address
      TimedOut          no answer in time: nothing is known of what was asked for
      BadCertificate    somebody answers, and its certificate says that it is not the one
      WrongCredentials  it does not take the user or the password
      NoSuchSystem      it answers, and has no such machine
      CannotSwitch      it has the machine, and cannot cut its power
      AlreadySo         it refuses to switch, as the power is as wanted
      OddAnswer         it answers with something else
      Unusable          what is needed here to ask it is missing
Texts never hold a password.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from proto.fence import Power


class DeviceError(Exception):
    """sentence: what was wrong; remedy: what would be right."""

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.remedy = remedy


class Unreachable(DeviceError):
    """Nobody answers at its address."""


class TimedOut(DeviceError):
    """No answer in time: nothing is known of what was asked for."""


class BadCertificate(DeviceError):
    """Its certificate is not one that it is to have."""


class WrongCredentials(DeviceError):
    """It does not take the user or the password."""


class NoSuchSystem(DeviceError):
    """It has no such machine."""


class CannotSwitch(DeviceError):
    """It cannot cut the machine's power."""


class AlreadySo(DeviceError):
    """It refuses to switch, as the power is as wanted."""


class OddAnswer(DeviceError):
    """It answers with something else."""


class Unusable(DeviceError):
    """What is needed here to ask it is missing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """identity: of the machine; empty where the device names none."""

    power: Power
    identity: str


class FenceDevice(Protocol):
    """Each call is one question, or one order, by a connection that is not older than it needs be; nothing is answered from
    memory, and nothing is tried twice. All raise DeviceError."""

    async def prepare(self) -> None:
        """What costs time here before the first question, such as loading a library: it is none of the device's."""
        ...

    async def look(self) -> Seen: ...

    async def check(self) -> None:
        """It could cut the power, as far as one can tell without doing it."""
        ...

    async def cut(self) -> None:
        """Power off, hard. Returns when the device has taken the order, which says nothing of the power."""
        ...

    async def restore(self) -> None:
        """Power on; likewise."""
        ...
