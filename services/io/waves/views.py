"""A part of io's view of itself: what there is to recover VMs from, and how far the steps of waves are that go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from libs.common.host import hearing
from libs.common.messages import Recorded
from proto.backups import BackupDamaged, BackupDeleted, BackupRequested, BackupTaken, BackupVerified
from proto.compute import (
    VmDeleted,
    VmFound,
    VmRecoveryRefused,
    VmRecoveryWaits,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
)
from proto.guard import GuardSet
from proto.machine import Priority
from proto.recovery import (
    DisksHome,
    DisksNotRecovered,
    DisksRecovered,
    EndKind,
    RecoveryEnded,
    RecoveryRequested,
)
from proto.waves import WaveEnded, WaveRequested, WaveStepBegun, WaveStepDone, WaveStepFailed


@dataclass(slots=True)
class Kept:
    """A backup that is there whole; parent: what it stands on."""

    parent: str
    taken_us: int
    bytes: int
    damaged: bool = False


@dataclass(slots=True)
class Track:
    """A step of a wave that goes on. standing: its disks stand on the backup; done: the wave has noted that it ran; touched: it was
    started before the step began."""

    wave: str
    backup: str
    lose: bool
    began: bool = False
    recovery: str = ""
    asked_us: int = 0
    standing: bool = False
    ran_us: int = 0
    done: bool = False
    home: bool = False
    failed: str = ""
    touched: bool = False


@dataclass(slots=True)
class WaveViews:
    """kept: VM -> backup, the oldest first. classes: of VMs, as they were backed up last. after: VM -> those that its guard names.
    active: wave -> its VMs that have not failed, asked_us: when it was; tracks: by VM."""

    kept: dict[str, dict[str, Kept]] = field(default_factory=dict)
    classes: dict[str, Priority] = field(default_factory=dict)
    after: dict[str, tuple[str, ...]] = field(default_factory=dict)
    active: dict[str, list[str]] = field(default_factory=dict)
    asked_us: dict[str, int] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)

    def chain(self, vm: str, backup: str) -> Iterator[Kept]:
        """It and all that it stands on, the newest first."""
        of, left = self.kept.get(vm, {}), len(self.kept.get(vm, ()))
        while (one := of.get(backup)) is not None and left:
            yield one
            backup, left = one.parent, left - 1

    def sound(self, vm: str, backup: str) -> bool:
        return backup in self.kept.get(vm, ()) and not any(one.damaged for one in self.chain(vm, backup))

    def mib(self, vm: str, backup: str) -> int:
        """Of all files that it consists of: what there is to come home, at most."""
        return -(-sum(one.bytes for one in self.chain(vm, backup)) // (1 << 20))

    def _backup(self, event: Any) -> None:
        of = self.kept.setdefault(event.vm, {})
        match event:
            case BackupRequested():
                self.classes[event.vm] = event.definition.priority
            case BackupTaken(done=done):
                of[event.backup] = Kept(done.parent, done.at_us, sum(disk.bytes for disk in done.disks))
            case BackupDeleted():
                gone = of.pop(event.backup, None)
                for id, one in of.items():
                    if gone is not None and one.parent == event.backup:
                        one.parent = gone.parent
                        one.bytes = sum(disk.bytes for disk in event.heirs.get(id, ())) or one.bytes
            case BackupVerified() | BackupDamaged():
                found = event.found if isinstance(event, BackupDamaged) else {}
                for one in self.chain(event.vm, event.backup):
                    one.damaged = False
                for id in found:
                    if id in of:
                        of[id].damaged = True
        if not of:
            del self.kept[event.vm]

    def _guard(self, event: GuardSet) -> None:
        if event.guard.after:
            self.after[event.vm] = event.guard.after
        else:
            self.after.pop(event.vm, None)

    def _deleted(self, event: VmDeleted) -> None:
        self.after.pop(event.vm, None)

    def _asked(self, recorded: Recorded, event: WaveRequested) -> None:
        self.asked_us[event.wave] = recorded.at_us
        self.active[event.wave] = [step.vm for step in event.steps]
        for step in event.steps:
            self.tracks[step.vm] = Track(event.wave, step.backup, step.lose)

    def _over(self, event: WaveEnded) -> None:
        self.asked_us.pop(event.wave, None)
        for vm in self.active.pop(event.wave, ()):
            self.tracks.pop(vm, None)

    def _failed(self, event: WaveStepFailed) -> None:
        if event.vm in self.active.get(event.wave, ()):
            self.active[event.wave].remove(event.vm)
            self.tracks.pop(event.vm, None)

    def _began(self, event: WaveStepBegun | WaveStepDone) -> None:
        if (track := self.tracks.get(event.vm)) is not None:
            track.began, track.done = True, isinstance(event, WaveStepDone)

    def _requested(self, recorded: Recorded, event: RecoveryRequested) -> None:
        track = self.tracks.get(event.target)
        if track is not None and track.began and not track.recovery and event.vm == event.target:
            track.recovery, track.asked_us = event.recovery, recorded.at_us

    def _lives(self, recorded: Recorded, event: Any) -> None:
        """What becomes of its VM, and of its recovery."""
        if (track := self.tracks.get(getattr(event, "target", event.vm))) is None:
            return
        own = bool(track.recovery) and getattr(event, "recovery", track.recovery) == track.recovery
        match event:
            case VmStarted() | VmFound() if track.standing:
                track.ran_us = track.ran_us or recorded.at_us
            case VmStarted() | VmFound():
                track.touched = track.touched or not track.began
            case VmStartRequested() if track.standing:
                track.failed = ""
            case VmStartFailed(again=False) if track.standing and not track.ran_us:
                track.failed = event.sentence
            case VmRecoveryWaits() if own and not track.ran_us:
                track.failed = event.sentence
            case DisksRecovered() if own:
                track.standing = True
            case VmRecoveryRefused() | DisksNotRecovered() if own:
                track.failed = event.sentence
            case DisksHome() if own:
                track.home = True
            case RecoveryEnded() if own:
                track.home = True
                if not track.ran_us and event.end is not EndKind.INDEPENDENT:
                    track.failed = track.failed or event.sentence or f"its recovery is over ({event.end})"

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys(
            (BackupRequested, BackupTaken, BackupDeleted, BackupVerified, BackupDamaged),
            lambda part, recorded, event: part._backup(event),
        ),
        GuardSet: lambda part, recorded, event: part._guard(event),
        VmDeleted: lambda part, recorded, event: part._deleted(event),
        WaveRequested: lambda part, recorded, event: part._asked(recorded, event),
        **dict.fromkeys((WaveStepBegun, WaveStepDone), lambda part, recorded, event: part._began(event)),
        WaveStepFailed: lambda part, recorded, event: part._failed(event),
        WaveEnded: lambda part, recorded, event: part._over(event),
        RecoveryRequested: lambda part, recorded, event: part._requested(recorded, event),
        **dict.fromkeys(
            (
                *(VmStarted, VmFound, VmStartFailed, DisksRecovered, VmRecoveryRefused, DisksNotRecovered, DisksHome),
                *(VmStartRequested, VmRecoveryWaits, RecoveryEnded),
            ),
            lambda part, recorded, event: part._lives(recorded, event),
        ),
    }
