"""io: many VMs recovered by one order (streams `wave-NAME`). A part of io.py; docs/decisions/0048-waves.md.

    RecoverMany ──▶ WaveRequested ──▶ WaveStepBegun ──▶ (RecoverVm, as any recovery) ──▶ WaveStepDone | WaveStepFailed ──▶ WaveEnded
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, Tick, Value
from proto.backups import RateMibps
from proto.devices import VmPhase
from proto.machine import Priority

STEPS_MAX = 2000
"""of one wave: its order is one event"""
LEFT_MAX = 500
"""VMs left out that are named with their reason"""
HOME_S = 900
"""in which the data of a VM that runs on its backup is to come home"""

AtOnce = Annotated[int, msgspec.Meta(ge=1, le=64)]
CopyingMax = Annotated[int, msgspec.Meta(ge=0, le=1024)]
LoseCount = Annotated[int, msgspec.Meta(ge=0, le=STEPS_MAX)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=STEPS_MAX)]
NameOrNone = Annotated[str, msgspec.Meta(max_length=63)]


class After(Value):
    """vm begins only once `first` runs."""

    vm: Name
    first: Name


class WaveWish(Value):
    """Which VMs: those that ran last on `node`, all that there are, and those named in vms; only a named one is also recovered
    where it is there and well, or was deleted. at_us: each from its newest sound backup that is not after it; 0: of any time. lose:
    the VMs of which what is on their disks is thrown away, by name; or lose_count: how many they are. after: beside what guards
    say. at_once: recoveries that do not run yet. copying_max: of which data is still to come home; 0: no limit. bandwidth_mibps:
    what each pool of backups gives; so much is begun from it as it gives in HOME_S; 0: not known, no limit."""

    node: NameOrNone = ""
    all: bool = False
    vms: Names = ()
    at_us: int = 0
    lose: Names = ()
    lose_count: LoseCount = 0
    after: Annotated[tuple[After, ...], msgspec.Meta(max_length=STEPS_MAX)] = ()
    at_once: AtOnce = 4
    copying_max: CopyingMax = 16
    bandwidth_mibps: RateMibps = 0


class WaveCandidate(Value):
    """What io's own view knows of a VM that may be recovered. named: by the wish. phase: unknown: it is not there. kept: how many
    backups it has. backup: the newest sound one, empty: none; damaged: one that is newer and of no use; mib: of it and all that
    it stands on; where: the pool that it lies in, with the pool's word; reached: a node has that pool. image: which it is started
    from, and is not there. well: stopped, and a node that is heard reaches its disks. busy: why nothing can be begun with it.
    after: VMs that its guard names. silent: the node that it is on, where that is not heard: what became of it is not known.
    key: by which the backup is encrypted: who reaches it has that, too."""

    vm: str
    named: bool = False
    phase: VmPhase = VmPhase.UNKNOWN
    priority: Priority = Priority.NORMAL
    kept: int = 0
    backup: str = ""
    taken_us: int = 0
    damaged: str = ""
    mib: int = 0
    where: str = ""
    reached: bool = False
    image: str = ""
    key: str = ""
    well: bool = False
    busy: str = ""
    after: tuple[str, ...] = ()
    silent: str = ""


class WaveKnown(Value):
    """unknown: names in the wish of which there is neither a VM nor a backup. runs: VMs that run, of those named in `after`."""

    candidates: tuple[WaveCandidate, ...] = ()
    unknown: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


class WaveStep(Value):
    """after: steps of this wave that have to run before. lose: it is there, and what is on its disks is thrown away. reason: why it
    has this place, in words."""

    vm: str
    backup: str
    taken_us: int
    priority: Priority
    mib: int
    where: str
    after: tuple[str, ...] = ()
    lose: bool = False
    reason: str = ""


class WaveLeft(Value):
    """A VM that is not recovered. well: it needs none."""

    vm: str
    sentence: str
    well: bool = False


class AskWave(Value):
    """`query.io.wave`: the WavePlan as of now."""

    wish: WaveWish


class WavePlan(Value):
    """What would be done. lose: of which VMs what is on their disks would be thrown away. refused, remedy: why the order would be
    refused as it is; empty: it would not."""

    steps: tuple[WaveStep, ...] = ()
    left: tuple[WaveLeft, ...] = ()
    left_more: int = 0
    lose: tuple[str, ...] = ()
    refused: str = ""
    remedy: str = ""


class RecoverMany(Command):
    """known, now_us: filled in by io's own view."""

    wave: Name
    wish: WaveWish
    known: WaveKnown = WaveKnown()
    now_us: int = 0


class CancelWave(Command):
    """No further step begins; what was begun goes on."""

    wave: Name


class WaveSeen(Value):
    """What io's own view knows of a step. recovery: the one under way to it; asked_us, ran_us: when that was asked for, and when
    the VM was seen to run by it, 0: not yet; home: its data is. failed: what came in between. barred: why it cannot begin now."""

    vm: str
    recovery: str = ""
    asked_us: int = 0
    ran_us: int = 0
    home: bool = False
    failed: str = ""
    barred: str = ""


class AdvanceWave(Tick):
    """io to itself. asked_us: when the wave was, by the log, as are the times of what was seen. seen: of the steps of which there
    is something to say: one that is not in it waits, and may begin, or its data is home. Both filled in by its own view."""

    wave: Name
    asked_us: int = 0
    seen: tuple[WaveSeen, ...] = ()


# --- events -------------------------------------------------------------------------------------------------------------


class WaveRequested(Event):
    """steps: in the order in which they begin, if nothing holds them up. left_more: VMs left out beside those named."""

    wave: str
    steps: tuple[WaveStep, ...]
    at_us: int
    left: tuple[WaveLeft, ...] = ()
    left_more: int = 0
    until_us: int = 0
    at_once: int = 4
    copying_max: int = 0
    bandwidth_mibps: int = 0


class WaveStepBegun(Event):
    """lose: what is on its disks is thrown away. place: of how many, counted from 1."""

    wave: str
    vm: str
    backup: str
    attempt: int
    at_us: int
    place: int
    of: int
    lose: bool = False
    reason: str = ""


class WaveStepDone(Event):
    """It was seen to run. first_ms: from when its recovery was asked for."""

    wave: str
    vm: str
    recovery: str
    first_ms: int
    at_us: int


class WaveStepFailed(Event):
    wave: str
    vm: str
    sentence: str
    at_us: int


class WaveCancelRequested(Event):
    wave: str


class WaveEnded(Event):
    """recovered, failed, unbegun: how many. first_ms: the median of all that ran, and the longest; took_s: from the order until the
    last one ran."""

    wave: str
    recovered: int
    failed: int
    at_us: int
    unbegun: int = 0
    first_ms_p50: int = 0
    first_ms_max: int = 0
    took_s: float = 0.0


WaveCommand = RecoverMany | CancelWave | AdvanceWave
WaveEvent = WaveRequested | WaveStepBegun | WaveStepDone | WaveStepFailed | WaveCancelRequested | WaveEnded
