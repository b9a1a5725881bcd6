"""Recoveries of VMs from their backups, the newest thousand, as the events tell of them. Pure.

    preparing ──▶ on-backup (`copying` while its node tells of it) ──▶ independent
        │ ▲           │ ▲
        │ │           ▼ │
        │ └─ waiting  stopped          waiting: its start failed; stopped: it ran, and is to be started to go on
        ├──▶ prepared                  it was not to be started
        └──▶ refused                   gone: what was recovered was deleted before it was independent
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from libs.common.messages import Recorded, decode_meta
from proto import compute as c
from proto import io
from proto.recovery import SLOW_TIMES, Grade, Limit, RecoveryAgentHeard

KEPT_MAX = 1000
STOPPED_MAX = 10_000
"""VMs of which it is remembered when they ended: what was lost with them counts from then"""

RecoveryState = Literal[
    "preparing", "prepared", "waiting", "on-backup", "copying", "stopped", "independent", "refused", "gone"
]
ENDED = frozenset({"independent", "refused", "gone"})


class Noted(msgspec.Struct):
    """How it went at a moment (io.RecoveryNoted). forecast_us: when it was to be as fast as ever; write_us: what one of its writes
    took lately, times: how many times normal that is; 0: not known."""

    at_us: int
    percent: float
    mibps: float
    forecast_us: int
    write_us: int = 0
    times: float = 0.0


class AtRisk(msgspec.Struct):
    """A promise of which it was said that it would be missed. limit: `first-instruction` or `normal`; due_us: until when it was to
    be kept; forecast_us: when it would be, 0: nobody knew; noted: how much of the curve there was by then."""

    limit: str
    at_us: int
    due_us: int
    forecast_us: int
    sentence: str
    noted: int


class Recovery(msgspec.Struct):
    """id: of its source's backups, as `r1-7`. source: whose backup; target: what was made of it. All times are the log's,
    microseconds since the epoch, 0: not yet; taken_us alone is by the clock of the node that took the backup. lost_from_us: until
    when the source wrote what is not in the backup: when it was seen to end, else the order. rpo_s: from the backup's instant until
    then. first_ms: from the order until the target ran; agent_ms: until its guest's agent answered; home_s: until it stood
    on no backup any more. node: where it ran last, or is to run; wished: only there, if said. sentence: why it is as it is, where
    that needs a word. curve: how it went, the oldest first: the first has the first forecast, the others corrected it. grade: once
    it is independent. drill: the recovery drill that it is a part of."""

    id: str
    source: str
    target: str
    project: str
    state: RecoveryState
    backup: str
    taken_us: int
    requested_us: int
    lost_from_us: int
    rpo_s: float
    disks: int
    size_mib: int
    wished: str = ""
    pool: str = ""
    start: bool = True
    isolated: bool = False
    lose: str = ""
    drill: str = ""
    node: str = ""
    prepared_us: int = 0
    disks_us: int = 0
    placed_us: int = 0
    started_us: int = 0
    starts: int = 0
    independent_us: int = 0
    ended_us: int = 0
    first_ms: int | None = None
    agent_ms: int | None = None
    home_s: float | None = None
    sentence: str = ""
    changed_us: int = 0
    actor: str = ""
    task: str = ""
    curve: list[Noted] = []
    risks: list[AtRisk] = []
    grade: Grade | None = None

    @property
    def at_risk(self) -> AtRisk | None:
        """What is to be looked at now: not what came about meanwhile, nor what a later forecast took back."""
        return next((risk for risk in self.risks if self._stands(risk)), None) if self.state not in ENDED else None

    def _stands(self, risk: AtRisk) -> bool:
        if risk.limit == Limit.FIRST:
            return not self.started_us
        if len(self.curve) == risk.noted:
            return True
        return self.curve[-1].forecast_us > risk.due_us or self.curve[-1].times > SLOW_TIMES


@dataclass(slots=True)
class RecoveriesView:
    """all: by `SOURCE.ID`, the oldest first; open: of each VM whose disks stand on a backup, by which recovery; ended: when VMs
    that do not run were seen to end."""

    all: dict[str, Recovery] = field(default_factory=dict)
    open: dict[str, str] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)

    def find(self, id: str) -> list[Recovery]:
        """Those of that name: `SOURCE.ID` is one, `ID` may be of several VMs."""
        if id in self.all:
            return [self.all[id]]
        return [one for one in self.all.values() if one.id == id]

    def of_target(self, vm: str) -> Recovery | None:
        """By which its disks stand on a backup."""
        return self.all.get(self.open.get(vm, ""))

    def apply(self, recorded: Recorded, event: Any) -> None:
        kind = type(event)
        if kind in OF_VM:
            self._note_end(event, recorded.at_us)
            if (one := self.of_target(event.vm)) is not None:
                _lives(one, event, recorded.at_us)
        elif kind is io.RecoveryRequested:
            self._begin(recorded, event)
        elif kind in OF_RECOVERY and (one := self.all.get(_key(event))) is not None:
            one.changed_us = recorded.at_us
            self._goes_on(one, event, recorded.at_us)

    def _note_end(self, event: Any, at_us: int) -> None:
        if type(event) is c.VmStopped:
            self.ended[event.vm] = at_us
            if len(self.ended) > STOPPED_MAX:
                del self.ended[next(iter(self.ended))]
        elif type(event) in RUNS:
            self.ended.pop(event.vm, None)

    def _begin(self, recorded: Recorded, event: io.RecoveryRequested) -> None:
        meta = decode_meta(recorded.meta)
        until_us = self.ended.get(event.vm, recorded.at_us)
        key = f"{event.vm}.{event.recovery}"
        self.all[key] = Recovery(
            id=event.recovery, source=event.vm, target=event.target, project=meta.project, state="preparing", backup=event.backup,
            taken_us=event.taken_us, requested_us=recorded.at_us, lost_from_us=until_us,
            rpo_s=round(max(0, until_us - event.taken_us) / 1e6, 3), disks=len(event.disks),
            size_mib=sum(disk.size_mib for disk in event.disks), wished=event.node, pool=event.pool, start=event.start,
            isolated=event.isolated, lose=event.lose, drill=event.drill,
            changed_us=recorded.at_us, actor=meta.actor, task=meta.correlation,
        )  # fmt: skip
        while len(self.all) > KEPT_MAX:
            ended = (known for known, one in self.all.items() if one.state in ENDED and known != key)
            gone = next(ended, next(iter(self.all)))
            self.open = {vm: known for vm, known in self.open.items() if known != gone}
            del self.all[gone]

    def _goes_on(self, one: Recovery, event: Any, at_us: int) -> None:
        match event:
            case io.RecoveryNoted() | io.RecoveryAtRisk():
                _tells(one, event, at_us)
            case c.VmRecoveryPrepared():
                one.prepared_us = at_us
            case io.DisksRecovered(vm=vm):
                self.open[vm] = _key(event)
                one.disks_us, one.node = at_us, event.node or one.wished
                if not one.start:
                    one.state, one.sentence = "prepared", "it was not to be started"
            case c.VmRecoveryWaits():
                one.state, one.sentence, one.changed_us = "waiting", event.sentence, at_us
            case c.VmRecoveryRefused() | io.DisksNotRecovered():
                one.state, one.sentence = "refused", event.sentence
            case io.DisksHome(vm=vm):
                self._leave(vm, one)
                one.state, one.sentence = "independent", ""
                one.independent_us, one.home_s = at_us, round((at_us - one.requested_us) / 1e6, 3)
            case RecoveryAgentHeard():
                one.agent_ms = event.after_ms
            case io.RecoveryEnded(target=vm, end=end):
                self._leave(vm, one)
                one.state, one.ended_us, one.sentence = end.value, at_us, event.sentence or one.sentence
                one.grade = event.grade
                if end is io.EndKind.INDEPENDENT and not one.independent_us:
                    one.independent_us, one.home_s = at_us, round((at_us - one.requested_us) / 1e6, 3)

    def _leave(self, vm: str, one: Recovery) -> None:
        if self.of_target(vm) is one:
            del self.open[vm]


def _key(event: Any) -> str:
    """source: whose backup, where the event is in another's stream."""
    return f"{getattr(event, 'source', event.vm)}.{event.recovery}"


def _tells(one: Recovery, event: io.RecoveryNoted | io.RecoveryAtRisk, at_us: int) -> None:
    if isinstance(event, io.RecoveryAtRisk):
        noted = len(one.curve)
        one.risks.append(AtRisk(event.limit.value, at_us, event.due_us, event.forecast_us, event.sentence, noted))
        return
    times = round(event.write_us / event.normal_us, 2) if event.normal_us else 0.0
    one.curve.append(Noted(event.at_us, event.percent, event.mibps, event.forecast_us, event.write_us, times))


def _lives(one: Recovery, event: Any, at_us: int) -> None:
    """What becomes of a VM whose disks stand on a backup."""
    match event:
        case c.VmStartRequested():
            one.node, one.placed_us, one.sentence = event.node, at_us, ""
            one.state = "stopped" if one.started_us else "preparing"
        case c.VmStarted() | c.VmFound():
            one.state, one.node, one.sentence, one.starts = "on-backup", event.node, "", one.starts + 1
            if not one.started_us:
                one.started_us, one.first_ms = at_us, (at_us - one.requested_us) // 1000
        case c.VmStartFailed(again=True):
            one.sentence = event.sentence
        case c.VmStartFailed():
            one.state, one.sentence = "waiting", event.sentence
        case c.VmStopped():
            one.state, one.sentence = "stopped", event.sentence or f"it ended ({event.cause})"
        case _:
            return
    one.changed_us = at_us


RUNS = frozenset({c.VmStarted, c.VmFound, c.VmDefined})
"""after which it has not ended"""
OF_VM = frozenset({c.VmStartRequested, c.VmStartFailed, c.VmStopped, *RUNS})
OF_RECOVERY = frozenset({
    c.VmRecoveryPrepared, c.VmRecoveryRefused, io.DisksRecovered, io.DisksNotRecovered, io.DisksHome, io.RecoveryEnded,
    io.RecoveryNoted, io.RecoveryAtRisk, c.VmRecoveryWaits,
    RecoveryAgentHeard,
})  # fmt: skip
HEARD = frozenset({io.RecoveryRequested, *OF_VM, *OF_RECOVERY})
"""all else changes nothing here"""
