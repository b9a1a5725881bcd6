"""From looks at a VM, every few seconds, to what is to be said of its life. A stepper: counts and time in, findings out. No I/O, no
clock.

What a look finds is kept as since when it has been so. A gap between two looks, a guest that began or went on, and whatever holds
it (`hold`) begin all of that anew: silence counts only while it was listened to.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from proto.vitals import Finding, Look, Screen, Sign, VmVitals
from services.node.drivers.vitals import VitalCount

GAP_US = 10_000_000
"""a look that is longer ago was not followed by this one: nobody was looking"""
TELL_US = 5_000_000
"""silence of an agent that is shorter is not told"""
SCREEN_US = 8_000_000
"""a guest that has not been heard for so long has its screen looked at, and again after as long"""
PINGS_MIN = 5
"""where looks come slowly, few of them may be late together"""
SPINS_PCT = 90.0
STANDS_PCT = 0.02
STARVED_PCT = 20.0
"""of what a vCPU wants: a guest that the host gives less has no chance to answer"""


@dataclass(slots=True)
class Pulse:
    """One process. …_us: since when it has been so; 0: it is not. lost: pings in a row without an answer."""

    count: VitalCount
    began_us: int
    last_us: int
    silent_us: int = 0
    lost: int = 0
    answered_us: int = 0
    still_us: int = 0
    cpu: str = "runs"
    cpu_us: int = 0
    ran_out_us: int = 0
    screen: Screen | None = None
    looked_us: int = 0
    hold: str = ""


@dataclass(slots=True)
class Vitals:
    """All VMs of a node."""

    of: dict[str, Pulse] = field(default_factory=dict)

    def look(self, count: VitalCount, answered: bool | None, hold: str, now_us: int) -> None:
        """answered: whether its agent did; None: it was not asked, as nothing listens."""
        pulse = self.of.get(count.vm)
        if pulse is None or not _same(pulse.count, count):
            pulse = self.of[count.vm] = Pulse(count, now_us, now_us)
        gap = now_us - pulse.last_us > GAP_US
        pulse.hold = hold or count.hold or ("" if count.status == "running" else f"it is {count.status}")
        if pulse.hold or gap or now_us <= pulse.last_us:
            _anew(pulse, count)
        else:
            _agent(pulse, count, answered, now_us)
            _still(pulse, count, now_us)
            _cpu(pulse, count, now_us)
            if count.ran_out > pulse.count.ran_out or (count.ran_out and not pulse.ran_out_us):
                pulse.ran_out_us = now_us
        pulse.count, pulse.last_us = count, now_us

    def only(self, vms: Collection[str]) -> None:
        self.of = {vm: pulse for vm, pulse in self.of.items() if vm in vms}

    def wants_screen(self, vm: str, now_us: int) -> bool:
        """Only of a guest that does not show otherwise that it lives: a picture costs more than all else."""
        pulse = self.of.get(vm)
        if pulse is None or pulse.hold or now_us - pulse.looked_us < SCREEN_US or pulse.answered_us == pulse.last_us:
            return False
        silent = pulse.silent_us and now_us - pulse.silent_us >= SCREEN_US
        idle = pulse.cpu in ("spins", "stands") and pulse.still_us and now_us - pulse.still_us >= SCREEN_US
        return bool(silent or idle or pulse.ran_out_us)

    def seen(self, vm: str, screen: Screen, now_us: int) -> None:
        if (pulse := self.of.get(vm)) is not None:
            pulse.screen, pulse.looked_us = screen, now_us

    def doubtful(self, vm: str, now_us: int) -> bool:
        """A word of its own says that it may be dead: its agent is silent, its watchdog ran out, or its screen tells so."""
        pulse = self.of.get(vm)
        if pulse is None:
            return False
        silent = pulse.silent_us and now_us - pulse.silent_us >= TELL_US and pulse.lost >= PINGS_MIN
        dead = pulse.screen is not None and pulse.screen.look in (Look.PANIC, Look.BLUE)
        return bool(silent or pulse.ran_out_us or dead)

    def told(self, now_us: int) -> tuple[VmVitals, ...]:
        """Those of which something is to be said."""
        return tuple(_told(vm, self.of[vm], now_us) for vm in sorted(self.of) if self.doubtful(vm, now_us))


def _same(old: VitalCount, new: VitalCount) -> bool:
    return (old.generation, old.pid, old.began) == (new.generation, new.pid, new.began)


def _anew(pulse: Pulse, count: VitalCount) -> None:
    """Nothing that was seen before counts from here on; a watchdog that ran out has, all the same."""
    pulse.silent_us = pulse.lost = pulse.still_us = pulse.cpu_us = 0
    pulse.cpu, pulse.screen = "runs", None
    if not count.ran_out:
        pulse.ran_out_us = 0


def _agent(pulse: Pulse, count: VitalCount, answered: bool | None, now_us: int) -> None:
    if answered or not count.channel or answered is None:
        pulse.silent_us = pulse.lost = 0
        pulse.answered_us = now_us if answered else 0
        if answered:
            pulse.screen = None
        return
    pulse.silent_us = pulse.silent_us or pulse.last_us
    pulse.lost += 1


def _still(pulse: Pulse, count: VitalCount, now_us: int) -> None:
    if not count.counted or count.marks != pulse.count.marks:
        pulse.still_us = 0
        if count.counted:
            pulse.screen = None
    else:
        pulse.still_us = pulse.still_us or pulse.last_us


def _cpu(pulse: Pulse, count: VitalCount, now_us: int) -> None:
    word = _word(pulse.count, count, now_us - pulse.last_us)
    if word != pulse.cpu:
        pulse.cpu, pulse.cpu_us = word, pulse.last_us
    pulse.cpu_us = pulse.cpu_us or pulse.last_us


def _word(old: VitalCount, new: VitalCount, window_us: int) -> str:
    """Of what its vCPUs did between two looks."""
    before = {thread.thread: thread for thread in old.vcpus}
    ran, waited = [], []
    for thread in new.vcpus:
        if (was := before.get(thread.thread)) is not None:
            ran.append(max(0, thread.ran_ns - was.ran_ns) / (window_us * 10))
            waited.append(max(0, thread.waited_ns - was.waited_ns) / (window_us * 10))
    if not ran or window_us <= 0:
        return "runs"
    wanted = [r + w for r, w in zip(ran, waited, strict=True)]
    if any(w >= SPINS_PCT and r < w * STARVED_PCT / 100 for r, w in zip(ran, wanted, strict=True)):
        return "starved"
    if any(w >= SPINS_PCT for w in wanted):
        return "spins"
    return "stands" if all(w <= STANDS_PCT for w in wanted) else "runs"


def _told(vm: str, pulse: Pulse, now_us: int) -> VmVitals:
    count = pulse.count
    found: list[Finding] = []

    def say(sign: Sign, word: str, since_us: int) -> None:
        for_s = round((now_us - since_us) / 1e6, 1) if since_us else 0.0
        found.append(Finding(sign=sign, word=word, for_s=for_s))

    if pulse.silent_us:
        say(Sign.AGENT, "silent", pulse.silent_us)
    else:
        say(Sign.AGENT, "answers" if pulse.answered_us else "none", 0)
    if pulse.ran_out_us:
        say(Sign.WATCHDOG, "ran-out", pulse.ran_out_us)
    if count.counted:
        say(Sign.IO, "still" if pulse.still_us else "moves", pulse.still_us)
    say(Sign.CPU, pulse.cpu, pulse.cpu_us)
    if pulse.screen is not None:
        say(Sign.SCREEN, pulse.screen.look, 0)
    up_s = round((now_us - pulse.began_us) / 1e6, 1)
    return VmVitals(vm, count.generation, up_s, tuple(found), pulse.hold, pulse.screen)
