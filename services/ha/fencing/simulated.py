"""Machines that are only simulated, and the devices before them: honest ones, liars and others. They pass the suite of the real
kinds (tests/contract/test_fence_devices.py)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from proto.fence import Device, Power
from services.ha.fencing.device import NoSuchSystem, Seen, TimedOut, WrongCredentials


class Quirk(StrEnum):
    """liar: says off once it was ordered, and switches nothing. deaf: takes the order, and switches nothing. flicker: says off once
    and then on. silent: answers nothing. mute: takes orders and switches, and then answers nothing. late: switches, and never
    answers the order; answers all else. stranger: answers for another machine."""

    NONE = "none"
    LIAR = "liar"
    DEAF = "deaf"
    FLICKER = "flicker"
    SILENT = "silent"
    MUTE = "mute"
    LATE = "late"
    STRANGER = "stranger"


@dataclass
class Machine:
    """on: the truth. orders: how often it was ordered off. delay_looks: so often it is still seen as before."""

    identity: str
    on: bool = True
    quirk: Quirk = Quirk.NONE
    user: str = ""
    password: str = ""
    delay_looks: int = 0
    orders: int = 0
    looks: int = 0
    said_off: bool = False
    left: int = field(default=0)

    def look(self) -> Seen:
        """Raises TimedOut."""
        self.looks += 1
        if self.quirk == Quirk.SILENT or (self.quirk == Quirk.MUTE and self.orders):
            raise TimedOut("no answer within the time that one question has")
        identity = f"not {self.identity}" if self.quirk == Quirk.STRANGER else self.identity
        if self.left > 0:
            self.left -= 1
            return Seen(Power.OFF if self.on else Power.ON, identity)
        if self.quirk == Quirk.FLICKER and self.orders and not self.said_off:
            self.said_off = True
            return Seen(Power.OFF, identity)
        lies = self.quirk == Quirk.LIAR and self.orders > 0
        return Seen(Power.OFF if lies or not self.on else Power.ON, identity)

    def switch(self, on: bool) -> None:
        """Raises TimedOut."""
        if not on:
            self.orders += 1
        if self.quirk == Quirk.SILENT:
            raise TimedOut("no answer to the order within its time")
        if self.quirk not in (Quirk.LIAR, Quirk.DEAF, Quirk.FLICKER) and self.on != on:
            self.on = on
            self.left = self.delay_looks
        if self.quirk == Quirk.LATE:
            raise TimedOut("no answer to the order within its time")


class Machines:
    """Those of one process, by address."""

    def __init__(self) -> None:
        self.all: dict[str, Machine] = {}

    def add(self, address: str, machine: Machine | None = None) -> Machine:
        made = machine or Machine(identity=f"simulated {address}")
        return self.all.setdefault(address, made)

    def open(self, device: Device, password: str) -> SimulatedDevice:
        return SimulatedDevice(self, device, password)


class SimulatedDevice:
    def __init__(self, machines: Machines, device: Device, password: str) -> None:
        self._machines = machines
        self._device = device
        self._password = password

    async def prepare(self) -> None:
        pass

    async def look(self) -> Seen:
        return self._machine().look()

    async def check(self) -> None:
        self._machine()

    async def cut(self) -> None:
        self._machine().switch(on=False)

    async def restore(self) -> None:
        self._machine().switch(on=True)

    def _machine(self) -> Machine:
        machine = self._machines.all.get(self._device.address)
        if machine is None:
            raise NoSuchSystem(f"no machine is simulated at {self._device.address}", "name one that is")
        if machine.user and (self._device.user, self._password) != (machine.user, machine.password):
            said = f"the device at {self._device.address} does not take the user {self._device.user or '(none)'} with that password"
            raise WrongCredentials(said, "set it with the right ones")
        return machine


async def never() -> None:
    """What a hanging call is like."""
    await asyncio.Event().wait()
