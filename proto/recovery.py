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

from libs.common.messages import Command, Event, Name, Value, VmId
from proto.backups import Definition, RateMibps
from proto.devices import Known, VmPhase
from proto.machine import Disk, DiskMib, Layer


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
    name."""

    phase: VmPhase = VmPhase.UNKNOWN
    removing: str = ""
    nodes: dict[str, tuple[str, ...]] = {}
    images: tuple[str, ...] = ()


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


class EndRecovery(Command):
    """vm: whose backup it was."""

    vm: Name
    recovery: str
    end: EndKind
    sentence: str = ""


# --- events -------------------------------------------------------------------------------------------------------------


class RecoveryRequested(Event):
    """recovery: its id, `rINCARNATION-VERSION`. The backup, and all that it stands on, are held until it has ended. definition:
    what `target` is to be, where it is not there. taken_us: the instant that the backup is of."""

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


class RecoveryEnded(Event):
    vm: VmId
    target: VmId
    recovery: str
    end: EndKind
    sentence: str = ""


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


RecoveryCommand = RecoverVm | EndRecovery
RecoveryEvent = RecoveryRequested | RecoveryEnded
RecoveredEvent = DisksRecovered | DisksNotRecovered | DisksHome
VmRecoveryEvent = VmRecoveryPrepared | VmRecoveryRefused
