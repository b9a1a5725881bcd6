"""ha: what was found of a VM whose node is well (streams `verdict-VM`): the signs, and the verdicts that they led to.

Nodes tell signs by telemetry, which is never recorded; what a verdict was reached by is in its event. A picture of the guest's
screen is known by its digest: its node has it, and the gateway's blobs once it was fetched.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from libs.common.messages import Event, Message, Name, NodeId, Tick, Value, VmId


class Sign(StrEnum):
    """By what a guest shows that it lives, or does not. agent: its agent answers, as long as it holds its channel open. watchdog:
    it winds up its watchdog device. io: its disks and NICs do something. cpu: what its vCPUs run. screen: what it shows. panic:
    its own word. process: QEMU itself."""

    AGENT = "agent"
    WATCHDOG = "watchdog"
    IO = "io"
    CPU = "cpu"
    SCREEN = "screen"
    PANIC = "panic"
    PROCESS = "process"


class Finding(Value):
    """What one sign says, since for_s. word: `answers`, `silent`, `none` (agent); `ran-out` (watchdog); `moves`, `still` (io);
    `runs`, `spins`, `stands`, `starved` (cpu); a Screen's word (screen)."""

    sign: Sign
    word: str
    for_s: float = 0.0
    sentence: str = ""


class Look(StrEnum):
    """What a screen is, by its pixels. panic: the text of a kernel that gave up."""

    PANIC = "panic"
    BLUE = "blue"
    BLACK = "black"
    OTHER = "other"
    UNKNOWN = "unknown"


class Screen(Value):
    """A picture that was taken. digest: of its PNG (SHA-256, hex; "": there is none); line: what was recognized on it."""

    digest: str = ""
    look: Look = Look.UNKNOWN
    line: str = ""
    at_us: int = 0


class Evidence(Value):
    """What a verdict was reached by. said: the guest's last word, or QEMU's (its last lines)."""

    findings: tuple[Finding, ...] = ()
    screen: Screen | None = None
    said: str = ""
    up_s: float = 0.0


class VmVitals(msgspec.Struct, frozen=True, array_like=True):
    """One VM in a beat. up_s: since its guest began, or went on, here. hold: why its silence says nothing now; "": it does."""

    vm: str
    generation: int
    up_s: float
    findings: tuple[Finding, ...] = ()
    hold: str = ""
    screen: Screen | None = None


class VitalsBeat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.vitals`, every BEAT_S: core NATS, never stored. vms: those of which some sign is not well; of all others among
    `watched` nothing is to be said. slow: the node itself was late, so that silence on it says nothing."""

    node: str
    boot_id: str
    at_us: int
    watched: int = 0
    slow: bool = False
    vms: tuple[VmVitals, ...] = ()


BEAT_S = 3.0


class Kind(StrEnum):
    """panic: the guest said that it gave up. hang: two independent signs. died: QEMU ended by itself. watchdog: the guest's
    watchdog ran out, and no other sign agrees: it is left alone."""

    PANIC = "panic"
    HANG = "hang"
    DIED = "died"
    WATCHDOG = "watchdog"


class JudgeVm(Tick):
    """Filled in by ha's own views. kind None: nothing to be judged. held: why it is not judged now; treated: by its guard, it is to
    be ended and started again; why_not: if not. again: it may have been judged while it was being moved, which came to nothing: it
    was not ended then."""

    vm: Name
    generation: int
    node: str = ""
    kind: Kind | None = None
    evidence: Evidence | None = None
    held: str = ""
    treated: bool = False
    why_not: str = ""
    again: bool = False


class LiftVerdict(Tick):
    """It shows life again though nobody restarted it."""

    vm: Name
    generation: int
    sentence: str


class VerdictReached(Event):
    """Once per generation and kind. number: of this VM's verdicts, from 1. treated: compute ends it, and its guard has it started
    again; else why_not says why nothing is done."""

    vm: VmId
    node: NodeId
    generation: int
    number: int
    kind: Kind
    at_us: int
    sentence: str
    evidence: Evidence
    treated: bool = True
    why_not: str = ""


class VerdictLifted(Event):
    """Of a verdict upon which nothing was done."""

    vm: VmId
    generation: int
    number: int
    kind: Kind
    sentence: str


class AskPicture(Message):
    """A picture that the agent keeps, by its digest."""

    vm: Name
    digest: str


VerdictCommand = JudgeVm | LiftVerdict
VerdictEvent = VerdictReached | VerdictLifted
