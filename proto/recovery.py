"""A VM made anew from a backup and started at once, while its data comes home. A part of io.py and compute.py;
docs/decisions/0046-recovery.md.

    backups-SOURCE        vm-TARGET                  devices-TARGET            vm-TARGET
    RecoverVm
    RecoveryRequested ──▶ PrepareRecovery
                          VmRecoveryPrepared ──────▶ RecoverDisks
                                                     DevicesChanged{recover}
                                                     DisksRecovered ─────────▶ StartVm … (as any start)
                                                     … layers seen gone
    EndRecovery ◀─────────────────────────────────── DevicesChanged{home}, DisksHome
    RecoveryEnded
"""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Command, Event, Name, Tick, Value, VmId
from proto.backups import Definition, RateMibps, Usual
from proto.devices import Known, VmPhase
from proto.machine import Disk, DiskMib, Layer

FIRST_S_MAX = 180
"""within which a recovered VM is promised to run, whatever its size"""
NORMAL_S_MAX = 900
"""within which it is promised to be as fast as ever: to stand on its own"""
SLOW_TIMES = 1.5
"""what its writes took before, from which on it is not as fast as ever"""
NOTES_MAX = 24
"""RecoveryNoted of one recovery"""


class RecoveredDisk(Value):
    """layers: what it is to stand on, the newest first, all of them leaving: their files lie in backups (Layer.origin). vars: the
    copy of its UEFI variables, in the newest one's folder."""

    disk: Name
    size_mib: DiskMib
    layers: tuple[Layer, ...]
    vars: str = ""


class RecoverKnown(Value):
    """By io's own view, of the name that is to be recovered to; ignored from outside. nodes: those that reach the backups' pool, by
    backup; images: those whose boot files are there. removing: the node that still removes the disks of an earlier one of that
    name. keyed: of each backup that is encrypted, the nodes that have its key."""

    phase: VmPhase = VmPhase.UNKNOWN
    removing: str = ""
    nodes: dict[str, tuple[str, ...]] = {}
    images: tuple[str, ...] = ()
    keyed: dict[str, tuple[str, ...]] = {}


class RecoverVm(Command):
    """Make `target` out of a backup of `vm`, and start it. target: `vm` itself, or a name that is free. backup: which; empty: the
    newest that is not after at_us (0: the newest of all). lose: the name of the VM, where it is there and what is on its disks is
    thrown away. pool: where its disks are to lie; empty: where they lay. isolated: none of its NICs has a link. rate_mibps: of
    each disk, how fast its data comes home at most; 0: as its guest lets it. drill: the drill that wants it (drills.py), by io
    itself: it is the least of all VMs then."""

    vm: Name
    target: Name
    backup: str = ""
    at_us: int = 0
    node: str = ""
    pool: str = ""
    start: bool = True
    isolated: bool = False
    rate_mibps: RateMibps = 0
    lose: str = ""
    drill: str = ""
    known: RecoverKnown = RecoverKnown()
    incarnation: int = 1


class EndKind(StrEnum):
    """independent: its disks stand on no backup any more; refused: it was not begun; gone: what was recovered was deleted."""

    INDEPENDENT = "independent"
    REFUSED = "refused"
    GONE = "gone"


class Limit(StrEnum):
    """What is promised of a recovery: its VM's first instruction within FIRST_S_MAX, that it is as fast as ever within
    NORMAL_S_MAX."""

    FIRST = "first-instruction"
    NORMAL = "normal"


class RecoverySeen(Value):
    """By io's own view; ignored from outside. ordered_us, started_us (its first start), home_us: of the log, 0: not yet.
    failed: why its latest start failed. copying: its node tells of its copy; then percent and mibps of that copy, left_s: how long
    it takes at the rate of the last moments, 0: not known yet; write_us: what one of its writes takes, normal_us: what that took
    when it was backed up, or takes without the copy; 0: not known. worst_times: how many times normal they took at worst."""

    ordered_us: int = 0
    started_us: int = 0
    home_us: int = 0
    failed: str = ""
    copying: bool = False
    percent: float = 0.0
    mibps: float = 0.0
    left_s: float = 0.0
    write_us: int = 0
    normal_us: int = 0
    worst_times: float = 0.0


class NoteRecovery(Tick):
    """io to itself: how it goes is worth a word in the log."""

    vm: Name
    recovery: str
    seen: RecoverySeen = RecoverySeen()


class Grade(Value):
    """How a recovery went, of one that is independent. first_ms: from the order until it ran, 0: it never did; home_s: until it was
    independent; worst_times: how many times normal its writes took at worst, 0: not known. met: both promises were kept.
    forecast_us: when it was first said to be as ever, off_s: by how much later it was; 0, 0: nothing was said."""

    first_ms: int
    home_s: float
    worst_times: float
    met: bool
    forecast_us: int = 0
    off_s: float = 0.0


class AskedAgent(Value):
    """By io's own view; ignored from outside. ordered_us: of the log, 0: nobody waits for its agent; generation: that runs, 0: none
    does."""

    ordered_us: int = 0
    generation: int = 0
    at_us: int = 0


class AnswerRecovery(Command):
    """From who asks the guest: its agent answered. vm: whose backup it was."""

    vm: Name
    recovery: str
    generation: int
    known: AskedAgent = AskedAgent()


class EndRecovery(Command):
    """vm: whose backup it was. seen: filled in by io's own view."""

    vm: Name
    recovery: str
    end: EndKind
    sentence: str = ""
    seen: RecoverySeen = RecoverySeen()


# --- events -------------------------------------------------------------------------------------------------------------


class RecoveryRequested(Event):
    """recovery: its id, `rINCARNATION-VERSION`. The backup, and all that it stands on, are held until it has ended. definition:
    what `target` is to be, where it is not there. taken_us: the instant that the backup is of. normal: how fast
    its disks were then."""

    vm: VmId
    target: VmId
    recovery: str
    backup: str
    taken_us: int
    disks: tuple[RecoveredDisk, ...]
    definition: Definition
    node: str = ""
    pool: str = ""
    start: bool = True
    isolated: bool = False
    rate_mibps: int = 0
    lose: str = ""
    drill: str = ""
    normal: Usual = Usual()


class RecoveryNoted(Event):
    """How it goes, sparingly. at_us: as it was said; forecast_us: when it is to be as ever; of the rest see RecoverySeen."""

    vm: VmId
    target: VmId
    recovery: str
    at_us: int
    percent: float
    mibps: float
    forecast_us: int
    write_us: int = 0
    normal_us: int = 0
    worst_times: float = 0.0


class RecoveryAtRisk(Event):
    """A promise would be missed, once for each. due_us: until when it is to be kept; forecast_us: when it will be, 0: nobody
    knows."""

    vm: VmId
    target: VmId
    recovery: str
    limit: Limit
    due_us: int
    forecast_us: int
    sentence: str


class RecoveryAgentHeard(Event):
    """Its guest's agent answered for the first time; its data may be home by then. after_ms: from the order."""

    vm: VmId
    target: VmId
    recovery: str
    generation: int
    after_ms: int


class RecoveryEnded(Event):
    """grade: where it is independent."""

    vm: VmId
    target: VmId
    recovery: str
    end: EndKind
    sentence: str = ""
    grade: Grade | None = None


# --- in the stream of the recovered VM's devices ---------------------------------------------------------------------------


class RecoverDisks(Command):
    """Its disks are from now on new files on top of those of a backup. What it had stays until they stand on it no more. source:
    whose backup; known: filled in by io's own view."""

    vm: Name
    source: Name
    recovery: str
    disks: tuple[RecoveredDisk, ...]
    definition: Definition
    node: str = ""
    pool: str = ""
    start: bool = True
    isolated: bool = False
    rate_mibps: int = 0
    known: Known = Known()
    incarnation: int = 1


class DisksRecovered(Event):
    """Prepared: the VM may be started. A DevicesChanged with the whole set goes before it. former: disks whose files are to be
    removed once the new ones stand on no backup any more."""

    vm: VmId
    source: VmId
    recovery: str
    node: str = ""
    start: bool = True
    former: tuple[Disk, ...] = ()


class DisksNotRecovered(Event):
    vm: VmId
    source: VmId
    recovery: str
    sentence: str


class DisksHome(Event):
    """They were seen to stand on no backup any more."""

    vm: VmId
    source: VmId
    recovery: str
    files: tuple[str, ...] = ()


# --- in the stream of the recovered VM ---------------------------------------------------------------------------------------


class PrepareRecovery(Command):
    """Compute: `vm` is to be there and stopped, so that its disks can be put in place: defined, where there is none. unheard:
    nodes that may run it unknown (as StartVm.unheard); filled in by compute's own view."""

    vm: Name
    source: Name
    recovery: str
    definition: Definition
    lose: str = ""
    unheard: tuple[str, ...] = ()
    incarnation: int = 1


class VmRecoveryPrepared(Event):
    """It is defined and stopped (a VmDefined goes before, where it was not there)."""

    vm: VmId
    source: VmId
    recovery: str


class VmRecoveryRefused(Event):
    vm: VmId
    source: VmId
    recovery: str
    sentence: str


class VmRecoveryWaits(Event):
    """Its disks stand on the backup, and its start was refused: nothing starts it by itself. remedy: what would help."""

    vm: VmId
    source: VmId
    recovery: str
    sentence: str
    remedy: str = ""


RecoveryCommand = RecoverVm | EndRecovery | NoteRecovery | AnswerRecovery
RecoveryEvent = RecoveryRequested | RecoveryNoted | RecoveryAtRisk | RecoveryEnded | RecoveryAgentHeard
RecoveredEvent = DisksRecovered | DisksNotRecovered | DisksHome
VmRecoveryEvent = VmRecoveryPrepared | VmRecoveryRefused | VmRecoveryWaits
