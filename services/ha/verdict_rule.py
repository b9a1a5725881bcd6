"""When a guest hangs: at least two independent signs say so, at least one of them the guest's own word, and none says that it
lives. Pure.

    its own words   agent     it answered its channel, still holds it open, and does not answer any more
                    watchdog  it wound up its watchdog device, and has stopped
                    screen    a kernel's last words, or a blue screen
    what it does    io, cpu   nothing is read, written or sent; its vCPUs do nothing but turn round, or nothing at all

What it does counts as one sign, as a vCPU that stands moves no disk either, and never alone: a guest that has nothing to do, or
computes all day, is well. A black screen says nothing: screens are switched off. An agent that answers, a disk that is written and
a vCPU that the host gives no time are answers to all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proto.vitals import Finding, Look, Sign

AGENT_S = 20.0
"""an agent answers in milliseconds, and on a host that is overloaded in seconds"""
STILL_S = 20.0
SPINS_S = 15.0
IDLE_S = 30.0
"""of an agent, where the vCPUs neither spin nor stand, or there is neither disk nor NIC: a guest whose programs all stand still and
one with nothing to do whose agent is stuck look the same, and no healthy agent is stuck for so long. (Nothing is written for
STILL_S only: the kernel of such a guest goes on to write what its programs left.)"""
LONE_S = 60.0
"""after which a watchdog that ran out is told of, though no other sign agrees"""


def two_signs(findings: Iterable[Finding]) -> bool:
    """The rule."""
    said = {finding.sign: finding for finding in findings}
    if lives(said):
        return False
    own = own_words(said)
    if len(own) >= 2:
        return True
    return len(own) == 1 and idle_for(said) >= STILL_S and _long_enough(said, own)


def _long_enough(said: Mapping[Sign, Finding], own: list[Sign]) -> bool:
    """An agent that is silent is given longer where nothing else of it is unusual."""
    if Sign.AGENT not in own or (Sign.IO in said and _abnormal(said)):
        return True
    return said[Sign.AGENT].for_s >= IDLE_S


def lives(said: Mapping[Sign, Finding]) -> bool:
    """Something shows that it does, or that nothing can be said."""
    words = {(sign, finding.word) for sign, finding in said.items()}
    return not words.isdisjoint({(Sign.AGENT, "answers"), (Sign.IO, "moves"), (Sign.CPU, "starved")})


def own_words(said: Mapping[Sign, Finding]) -> list[Sign]:
    """Those by which the guest itself says that it is dead."""
    found = []
    agent, watchdog, screen = said.get(Sign.AGENT), said.get(Sign.WATCHDOG), said.get(Sign.SCREEN)
    if agent is not None and agent.word == "silent" and agent.for_s >= AGENT_S:
        found.append(Sign.AGENT)
    if watchdog is not None and watchdog.word == "ran-out":
        found.append(Sign.WATCHDOG)
    if screen is not None and screen.word in (Look.PANIC, Look.BLUE):
        found.append(Sign.SCREEN)
    return found


def idle_for(said: Mapping[Sign, Finding]) -> float:
    """For how long it has done nothing, in seconds; 0: it does something, or nobody knows."""
    io = said.get(Sign.IO)
    if io is not None:
        return io.for_s if io.word == "still" else 0.0
    return said[Sign.CPU].for_s if _abnormal(said) else 0.0  # it has neither disk nor NIC


def _abnormal(said: Mapping[Sign, Finding]) -> bool:
    cpu = said.get(Sign.CPU)
    return cpu is not None and cpu.word in ("spins", "stands") and cpu.for_s >= SPINS_S


def lone_watchdog(findings: Iterable[Finding]) -> bool:
    return any(f.sign is Sign.WATCHDOG and f.word == "ran-out" and f.for_s >= LONE_S for f in findings)
