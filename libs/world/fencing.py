"""Fence devices in the world: one before each node, over a network of its own, and the part of ha that asks them. The agenda, the
conduct of a try and the judgement are production's; only the waiting is the world's.

A device may be honest, however slow or silent it is, or lie: then the true world knows of it (`Bmc.lied`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proto.fence import Device, DeviceKind, NoteFence, NoteTest, Power, Want
from services.ha.fencing.agenda import Agenda, Due
from services.ha.fencing.attempt import Look, Moment, Order, Step, Try
from services.ha.fencing.device import DeviceError, Seen, TimedOut, WrongCredentials
from services.ha.fencing.executor import LOOK_S, wanted
from services.ha.fencing.states import Fence, Job

if TYPE_CHECKING:
    from libs.world.granting import HaProcess
    from libs.world.nodes import NodeProcess

ANSWER_US = (2_000, 60_000)
MENDED_US = 5_000_000
"""once all is to be well, somebody switches on what was cut"""
LOOK_US = round(LOOK_S * 1e6)


class Quirk(StrEnum):
    """away: answers nothing. mute: switches, and answers nothing from the order on. locked: takes no password. deaf: takes the
    order, and switches nothing. slow: switches `late_us` later. liar: takes the order, says off, and switches nothing. early: says
    off at once, and switches `late_us` later."""

    NONE = ""
    AWAY = "away"
    MUTE = "mute"
    LOCKED = "locked"
    DEAF = "deaf"
    SLOW = "slow"
    LIAR = "liar"
    EARLY = "early"


LIARS = (Quirk.LIAR, Quirk.EARLY)


def described(node: str) -> Device:
    return Device(kind=DeviceKind.SIMULATED, address=f"bmc-{node}")


class Bmc:
    """lied: the boot of which it said off while there was power."""

    def __init__(self, node: NodeProcess, identity: str = "") -> None:
        self.node = node
        self.identity = identity or f"simulated bmc-{node.name}"
        self.quirk = Quirk.NONE
        self.late_us = 0
        self.lied = ""
        self._ordered = False
        self._changes = 0

    def become(self, quirk: Quirk, late_us: int = 0) -> None:
        """What it had still to do is forgotten."""
        self.quirk, self.late_us, self._ordered = quirk, late_us, False
        self._changes += 1

    def look(self) -> Seen:
        """Raises DeviceError."""
        self._reached()
        node = self.node
        off = not node.powered or (self._ordered and self.quirk in LIARS)
        if off and node.powered:
            self.lied = node.host.boot_id
        return Seen(Power.OFF if off else Power.ON, self.identity)

    def switch(self, want: Want) -> None:
        """Raises DeviceError."""
        self._reached()
        self._ordered = want is Want.OFF
        if self.quirk in (Quirk.LIAR, Quirk.DEAF):
            return
        late = self.late_us if self.quirk in (Quirk.SLOW, Quirk.EARLY) else 0
        if late:
            changes = self._changes
            self.node.world.net.after(late, lambda: self._switched(want) if self._changes == changes else None)
        else:
            self._switched(want)
        if self.quirk is Quirk.MUTE:
            raise TimedOut("no answer to the order within its time")

    def _reached(self) -> None:
        if self.quirk is Quirk.AWAY or (self.quirk is Quirk.MUTE and self._ordered):
            raise TimedOut("no answer within the time that one question has")
        if self.quirk is Quirk.LOCKED:
            raise WrongCredentials("the device does not take that password", "set it with the right one")

    def _switched(self, want: Want) -> None:
        node = self.node
        if want is Want.ON:
            node.power_on()
        elif node.powered:
            node.world.checker.nodes.cut_off(node)
            node.power_off()
            if node.world.peace:
                node.world.net.after(MENDED_US, node.power_on)


class Hands:
    """Beside ha in its process: asks devices what the log wants of them, where the grantor of this process leads."""

    def __init__(self, process: HaProcess) -> None:
        self.process = process
        self.agenda = Agenda()

    def begin(self) -> None:
        """Once more after a while, in this life of the process."""
        process = self.process
        if process.leads:
            now = self._now
            for node, fence, what in self.agenda.take(self._fences, process.views.fences.waiting, now.wall_us, now.mono_ms / 1000):
                if what is Due.TEST:
                    self._call(node, fence, self._bmc(node).look, lambda answer, n=node, f=fence: self._tested(n, f, answer))  # type: ignore[misc]
                elif fence.job is not None:
                    self._go(node, fence, fence.job, Try(node, fence.job), Look())
        process.later(LOOK_US, self.begin)

    @property
    def _fences(self) -> dict[str, Fence]:
        return self.process.views.fences.fences

    @property
    def _now(self) -> Moment:
        return Moment(self.process.now_us, self.process.mono_us // 1000)

    def _bmc(self, node: str) -> Bmc:
        return self.process.world.bmcs[node]

    def _call[T](self, node: str, fence: Fence, asks: Callable[[], T], answered: Callable[[T | DeviceError], None]) -> None:
        """There and back; what does not answer is waited for as long as a call may take."""
        process, net = self.process, self.process.world.net
        assert fence.device is not None
        call_us, life = round(fence.device.call_s * 1e6), process.life

        def reached() -> None:
            try:
                answer: T | DeviceError = asks()
            except DeviceError as error:
                answer = error
            back_us = call_us if isinstance(answer, TimedOut) else net.between(*ANSWER_US)
            if process.life == life:
                process.later(back_us, lambda: answered(answer))

        net.after(net.between(*ANSWER_US), reached)

    def _tested(self, node: str, fence: Fence, answer: Seen | DeviceError) -> None:
        now = self._now
        self.agenda.tested(node, fence.number, now.mono_ms / 1000)
        note = NoteTest(node=node, number=fence.number, now_us=now.wall_us)
        if isinstance(answer, DeviceError):
            note = replace(note, error=answer.sentence, remedy=answer.remedy)
        else:
            note = replace(note, power=answer.power, identity=answer.identity)
        self.process.own(note)

    def _go(self, node: str, fence: Fence, job: Job, going: Try, step: Step) -> None:
        asked = self._now
        match step:
            case NoteFence():
                self.agenda.tried(node, job, asked.mono_ms / 1000)
                self.process.own(step)
            case Look(wait_ms) if wait_ms:
                self.process.later(wait_ms * 1000, lambda: self._go(node, fence, job, going, Look()))
            case Look():
                seen = lambda answer: self._go(node, fence, job, going, going.seen(asked, self._now, answer))  # noqa: E731
                self._call(node, fence, self._bmc(node).look, seen)
            case Order(want):
                if not (self.process.leads and wanted(self._fences, node, job)):
                    self._go(node, fence, job, going, going.unwanted(asked))
                    return
                sent = lambda refused: self._go(node, fence, job, going, going.ordered(asked, self._now, refused))  # noqa: E731
                self._call(node, fence, lambda: self._bmc(node).switch(want), sent)
