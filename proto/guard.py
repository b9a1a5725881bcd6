"""ha: each VM's guard (streams `guard-VM`): whether it is to run again by itself, when and where it was, and what was found of it.

A VM of which nothing was set has Guard(): on shared disks it is restarted elsewhere, else where it was. `owed`: it is to run, and
does not: RestartWanted asks compute for it, in order of class and dependency, so many at once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, NodeId, Tick, Value, VmId


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
    panic_wait_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 0
    failures_max: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    window_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 1800
    then: Then = Then.ELSEWHERE
    grace_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 120


class SetGuard(Command):
    """Change what is named; None stays. shared: whether other nodes reach all its disks; why_not: if not; known: all VMs there are,
    circle: VMs that would wait for one another. Filled in by ha's own view."""

    vm: Name
    mode: Mode | None = None
    after: tuple[Name, ...] | None = None
    hangs: bool | None = None
    panics: bool | None = None
    panic_wait_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    failures_max: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    window_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] | None = None
    then: Then | None = None
    grace_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] | None = None
    defined: bool = False
    why_not: str = ""
    unknown: tuple[str, ...] = ()
    circle: tuple[str, ...] = ()


class Cause(StrEnum):
    """Why a VM is owed. node-lost; died: its QEMU ended by itself; panic: the guest said so (pvpanic, crash notifier); hang: two
    independent signs; start-failed: an earlier attempt of these did not come to run."""

    NODE_LOST = "node-lost"
    DIED = "died"
    PANIC = "panic"
    HANG = "hang"


class GuardSet(Event):
    vm: VmId
    guard: Guard


class VmOwed(Event):
    """It is to run and does not. node: where it was, generation: as which. elsewhere: not there again."""

    vm: VmId
    cause: Cause
    node: NodeId
    generation: int
    at_us: int
    elsewhere: bool = False
    sentence: str = ""


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


class VmRecovered(Event):
    vm: VmId
    node: NodeId
    generation: int
    after_ms: int


class GuardEnded(Event):
    """It is owed no more without being restarted: given up (too many failures), stopped or deleted by somebody, guard off."""

    vm: VmId
    sentence: str
    given_up: bool = False


class OweVm(Command):
    """From a reaction: what it ran is known to have ended."""

    vm: Name
    cause: Cause
    node: Name
    generation: int
    at_us: int
    sentence: str = ""


class WantRestart(Tick):
    """Its turn has come."""

    vm: Name


class NoteRestart(Command):
    """What became of it, from compute's events."""

    vm: Name
    generation: int = 0
    node: str = ""
    running: bool = False
    sentence: str = ""
    remedy: str = ""
    at_us: int = 0


class ReleaseVm(Command):
    """Somebody stopped or deleted it, or started it by hand."""

    vm: Name
    sentence: str


GuardCommand = SetGuard | OweVm | WantRestart | NoteRestart | ReleaseVm
GuardEvent = GuardSet | VmOwed | RestartWanted | VmUnplaced | VmRecovered | GuardEnded
