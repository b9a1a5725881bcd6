"""A part of io's view of itself: how recoveries go that are under way. Their times are of the log, how far they are is told by the
VM's node (`tel.NODE.copies`) and forgotten: a service that begins again has a forecast SETTLE_S later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from libs.common.host import hearing
from libs.common.messages import Recorded, VmId
from proto.compute import VmFound, VmRecoveryWaits, VmStarted, VmStartFailed, VmStartRequested
from proto.io import DisksHome, DisksRecovered, RecoveryAtRisk, RecoveryEnded, RecoveryNoted, RecoveryRequested
from proto.node import CopiesBeat, CopyNow
from proto.recovery import NoteRecovery, RecoverySeen
from services.io.backups import watching
from services.io.backups.states import Hold, Watch

if TYPE_CHECKING:
    from services.io.views import Views

S = 1_000_000
HOME = "home"
SETTLE_S = 5
"""after the first word of a copy nothing is forecast of it: it creeps while its agent learns what its guest's writes take"""
RECENT_S = 20
"""over which its rate is taken"""
APART_US_MIN = S // 2
"""between what is kept of that: whoever tells more often is heard no better"""
FRESH_S = 5
"""after which the word of a node is worth nothing: it is told every second"""
_decode = msgspec.msgpack.Decoder(CopiesBeat).decode


@dataclass(slots=True)
class Going:
    """A recovery. hold: as its stream has it. normal_us: what a write took when it was backed up, 0: not known. standing: its disks
    are on the backup. The times are of the log; 0: not yet."""

    source: str
    hold: Hold
    ordered_us: int
    normal_us: int = 0
    standing: bool = False
    started_us: int = 0
    home_us: int = 0
    failed: str = ""


@dataclass(slots=True)
class Told:
    """What comes home of a VM. disks: (done, all) in MiB, the last that was told of each; lately: (when, done) of RECENT_S;
    first_us: when it was told first; worst_us: what a write took at worst, usual_us: as its agent learnt it."""

    first_us: int
    disks: dict[str, tuple[int, int]] = field(default_factory=dict)
    lately: list[tuple[int, int]] = field(default_factory=list)
    write_us: int = 0
    usual_us: int = 0
    worst_us: int = 0

    def hear(self, copies: Sequence[CopyNow], now_us: int) -> None:
        if self.lately and not 0 <= now_us - self.lately[-1][0] <= FRESH_S * S:  # it begins anew, or the clock was set back
            self.lately, self.first_us = [], now_us
        for name, (_, whole) in self.disks.items():
            self.disks[name] = whole, whole  # what is told of no more is home
        self.disks |= {copy.name: (min(copy.done_mib, copy.all_mib), copy.all_mib) for copy in copies}
        self.lately = [(at, done) for at, done in self.lately if at >= now_us - RECENT_S * S]
        if len(self.lately) > 1 and self.lately[-1][0] - self.lately[-2][0] < APART_US_MIN:
            self.lately.pop()
        self.lately.append((now_us, self.done_mib))
        self.write_us = max(copy.write_us for copy in copies)
        self.usual_us = max(copy.normal_us for copy in copies) or self.usual_us
        self.worst_us = max(self.worst_us, self.write_us)

    @property
    def done_mib(self) -> int:
        return sum(done for done, _ in self.disks.values())

    @property
    def left_mib(self) -> int:
        return sum(whole - done for done, whole in self.disks.values())

    def mibps(self) -> float:
        (begun, had), (now, has) = self.lately[0], self.lately[-1]
        return max(0, has - had) / ((now - begun) / S) if now > begun else 0.0

    def seen(self, seen: RecoverySeen, normal_us: int, now_us: int) -> RecoverySeen:
        """What is known of it beside its times."""
        usual_us = normal_us or self.usual_us
        worst = round(self.worst_us / usual_us, 2) if usual_us else 0.0
        seen = msgspec.structs.replace(seen, worst_times=worst)
        at_us = self.lately[-1][0]
        if not 0 <= now_us - at_us <= FRESH_S * S:
            return seen
        rate, whole = self.mibps(), self.done_mib + self.left_mib
        settled = at_us - self.first_us >= SETTLE_S * S
        return msgspec.structs.replace(
            seen, copying=True, percent=round(100.0 * self.done_mib / whole, 1) if whole else 100.0, mibps=round(rate, 1),
            left_s=round(self.left_mib / rate, 1) if settled and rate > 0 else 0.0, write_us=self.write_us, normal_us=usual_us,
        )  # fmt: skip


@dataclass(slots=True)
class WatchViews:
    """going: by target, then by `SOURCE.RECOVERY`; told: by target."""

    NOT_OF_LOG: ClassVar = frozenset({"told"})

    going: dict[str, dict[str, Going]] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)

    def find(self, source: str, recovery: str) -> Going | None:
        key = f"{source}.{recovery}"
        return next((going[key] for going in self.going.values() if key in going), None)

    def _recovery(self, recorded: Recorded, event: Any) -> None:
        of = self.going.setdefault(event.target, {})
        key = f"{event.vm}.{event.recovery}"
        match event:
            case RecoveryRequested():
                hold = Hold(
                    recovery=event.recovery, backup=event.backup, target=event.target, watch=Watch(start=event.start)
                )
                of[key] = Going(event.vm, hold, recorded.at_us, event.normal.write_us)
                self.told.pop(event.target, None)
            case RecoveryEnded():
                of.pop(key, None)
            case RecoveryNoted() | RecoveryAtRisk() if (one := of.get(key)) is not None:
                one.hold = msgspec.structs.replace(one.hold, watch=watching.after(one.hold.watch, event))
        if not of:
            del self.going[event.target]
            self.told.pop(event.target, None)

    def _vm(self, recorded: Recorded, event: Any) -> None:
        for one in self.going.get(event.vm, {}).values():
            match event:
                case DisksRecovered() if (event.source, event.recovery) == (one.source, one.hold.recovery):
                    one.standing = True
                case DisksHome():
                    one.home_us = recorded.at_us
                case VmStartRequested():
                    one.failed = ""
                case VmStarted() | VmFound() if one.standing:
                    one.started_us, one.failed = one.started_us or recorded.at_us, ""
                case VmStartFailed(again=False) | VmRecoveryWaits() if one.standing:
                    one.failed = event.sentence or "nobody said why"

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys(
            (RecoveryRequested, RecoveryEnded, RecoveryNoted, RecoveryAtRisk),
            lambda part, recorded, event: part._recovery(recorded, event),
        ),
        **dict.fromkeys(
            (DisksRecovered, DisksHome, VmStartRequested, VmStarted, VmFound, VmStartFailed, VmRecoveryWaits),
            lambda part, recorded, event: part._vm(recorded, event),
        ),
    }

    def seen(self, one: Going, now_us: int) -> RecoverySeen:
        seen = RecoverySeen(
            ordered_us=one.ordered_us, started_us=one.started_us, home_us=one.home_us, failed=one.failed
        )
        told = self.told.get(one.hold.target)
        return told.seen(seen, one.normal_us, now_us) if told is not None and one.standing else seen


def seen(source: str, recovery: str, views: Views, now_us: int) -> RecoverySeen:
    """For a command about it."""
    one = views.watches.find(source, recovery)
    return views.watches.seen(one, now_us) if one is not None else RecoverySeen()


def hear(subject: str, data: bytes, now_us: int, views: Views) -> None:
    """`tel.NODE.copies`. Only a node that joined, in its own name, of VMs that are there."""
    beat = _decode(data)
    if beat.node not in views.nodes or subject != f"tel.{beat.node}.copies":
        return
    by: dict[str, list[CopyNow]] = {}
    for copy in beat.copies:
        held = views.disks.get(copy.vm)
        if copy.what == HOME and copy.vm in views.watches.going and held is not None and held.node == beat.node:
            by.setdefault(copy.vm, []).append(copy)
    for vm, copies in by.items():
        views.watches.told.setdefault(vm, Told(now_us)).hear(copies, now_us)


def look(now_us: int, views: Views) -> Iterator[NoteRecovery]:
    """Of which there is something to write."""
    for _, of in sorted(views.watches.going.items()):
        for one in of.values():
            if watching.decided(VmId(one.source), one.hold, views.watches.seen(one, now_us), now_us):
                yield NoteRecovery(vm=one.source, recovery=one.hold.recovery, now_us=now_us)
