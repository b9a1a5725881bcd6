"""ha: each VM's guard (streams `guard-VM`): whether it is to run again by itself, when and where it was, and what was found of it.

A VM of which nothing was set has Guard(): on shared disks it is restarted elsewhere, else where it was. `owed`: it is to run, and
does not: RestartWanted asks compute for it, in order of class and dependency, so many at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, NodeId, Tick, Value, VmId
from proto.machine import Priority

PanicWaitS = Annotated[int, msgspec.Meta(ge=0, le=86_400)]
FailuresMax = Annotated[int, msgspec.Meta(ge=0, le=100)]
WindowS = Annotated[int, msgspec.Meta(ge=10, le=86_400)]
GraceS = Annotated[int, msgspec.Meta(ge=0, le=3600)]


class Refusal(StrEnum):
    NOT_DEFINED = "NOT_DEFINED"
    LOCAL_DISK = "LOCAL_DISK"
    CIRCLE = "CIRCLE"


class Mode(StrEnum):
    """auto: as `restart` where all its disks are in pools that other nodes reach too, else as `in-place`. restart: elsewhere when
    its node is lost. in-place: only where it was, once that node is back. off: never by itself."""

    AUTO = "auto"
    RESTART = "restart"
    IN_PLACE = "in-place"
    OFF = "off"


class Then(StrEnum):
    """What follows when a VM has failed too often on its node."""

    ELSEWHERE = "elsewhere"
    STOP = "stop"


class Guard(Value):
    """after: VMs that are to run before it is restarted. hangs: a hang is treated, too (two independent signs). failures_max within
    window_s: further ones lead to `then`. grace_s: from its start on no hang is looked for. panics: a panic is treated, after
    panic_wait_s, in which somebody may look at it or dump its memory."""

    mode: Mode = Mode.AUTO
    after: tuple[str, ...] = ()
    hangs: bool = True
    panics: bool = True
    panic_wait_s: PanicWaitS = 0
    failures_max: FailuresMax = 3
    window_s: WindowS = 1800
    then: Then = Then.ELSEWHERE
    grace_s: GraceS = 120


class SetGuard(Command):
    """Change what is named; None stays. defined: there is such a VM; why_not: why it cannot be started elsewhere, if not;
    unknown: of those in `after`; circle: VMs that would wait for one another. Filled in by ha's own view."""

    vm: Name
    mode: Mode | None = None
    after: tuple[Name, ...] | None = None
    hangs: bool | None = None
    panics: bool | None = None
    panic_wait_s: PanicWaitS | None = None
    failures_max: FailuresMax | None = None
    window_s: WindowS | None = None
    then: Then | None = None
    grace_s: GraceS | None = None
    defined: bool = False
    why_not: str = ""
    unknown: tuple[str, ...] = ()
    circle: tuple[str, ...] = ()


class Cause(StrEnum):
    """Why a VM is owed. node-lost: also where its lease was over; died: its QEMU ended by itself; panic: the guest said so, as by
    pvpanic or its crash notifier; hang: two independent signs."""

    NODE_LOST = "node-lost"
    DIED = "died"
    PANIC = "panic"
    HANG = "hang"


class GuardSet(Event):
    vm: VmId
    guard: Guard


class VmOwed(Event):
    """It is to run and does not. node: where it was, generation: as which. elsewhere: rather not there again. try_us: not before
    then; failures: within its guard's window, this one counted."""

    vm: VmId
    cause: Cause
    node: NodeId
    generation: int
    at_us: int
    elsewhere: bool = False
    sentence: str = ""
    priority: Priority = Priority.NORMAL
    try_us: int = 0
    failures: int = 0


class RestartWanted(Event):
    """Compute is asked to start it. node: there only (in place); empty: wherever it fits, but not_node. failover: it may use the
    memory that is kept for VMs of lost nodes. sentence: for what it did not wait any longer."""

    vm: VmId
    attempt: int
    at_us: int
    node: str = ""
    not_node: str = ""
    failover: bool = False
    sentence: str = ""


class VmUnplaced(Event):
    """No node takes it by now, or its start failed. It is tried again when something changed, and at try_us at the latest."""

    vm: VmId
    sentence: str
    remedy: str = ""
    try_us: int = 0


class VmInHand(Event):
    """Somebody starts it, on that node: nothing else is tried before that has come to something. Where it fails, it is owed on."""

    vm: VmId
    node: NodeId


class VmRecovered(Event):
    vm: VmId
    node: NodeId
    generation: int
    after_ms: int


class GuardEnded(Event):
    """It is owed no more without being restarted: given up (too many failures), stopped or deleted by somebody, guard off.
    generation: the last that ran, where it was given up."""

    vm: VmId
    sentence: str
    given_up: bool = False
    generation: int = 0


class OweVm(Command):
    """From a reaction: what it ran is known to have ended. priority: its class; why_not: why it cannot be started elsewhere, if
    not. Both are filled in by ha's own view."""

    vm: Name
    cause: Cause
    node: Name
    generation: int
    at_us: int
    sentence: str = ""
    priority: Priority = Priority.NORMAL
    why_not: str = ""


class WantRestart(Tick):
    """It may be its turn. Filled in by ha's own view: turn: it is; changed: something is other than when it was tried last; away:
    the node where it was is lost; why_not: as in OweVm; sentence: for what it does not wait any longer."""

    vm: Name
    turn: bool = False
    changed: bool = False
    away: bool = False
    why_not: str = ""
    sentence: str = ""


class NoteRestart(Command):
    """What became of it, from compute's events: it runs, or that attempt came to nothing; by_hand: the start that somebody made."""

    vm: Name
    attempt: int = 0
    generation: int = 0
    node: str = ""
    running: bool = False
    sentence: str = ""
    remedy: str = ""
    at_us: int = 0
    by_hand: bool = False


class NoteHand(Command):
    """Somebody starts what is owed."""

    vm: Name
    node: Name


class ReleaseVm(Command):
    """Somebody stopped or deleted it."""

    vm: Name
    sentence: str
    deleted: bool = False


GuardCommand = SetGuard | OweVm | WantRestart | NoteRestart | NoteHand | ReleaseVm
GuardEvent = GuardSet | VmOwed | RestartWanted | VmUnplaced | VmInHand | VmRecovered | GuardEnded


def reaching(nodes: Iterable[Mapping[str, str]]) -> dict[str, Counter[str]]:
    """Of each pool, how many nodes reach it by which word. nodes: the pools of each, with their words."""
    counts: dict[str, Counter[str]] = {}
    for ids in nodes:
        for pool, word in ids.items():
            counts.setdefault(pool, Counter())[word] += bool(word)
    return counts


def held_fast(pool: str, word: str, counts: Mapping[str, Counter[str]]) -> str:
    """Why a VM with a disk in that pool cannot be started elsewhere than where that is; "": it can. word: "": not known yet."""
    words = counts.get(pool, Counter[str]())
    if (words[word] if word else max(words.values(), default=0)) >= 2:
        return ""
    where = f"pool {pool} {word}" if word else f"pool {pool}"
    return f"it has a disk in the {where}, which one node alone reaches"
