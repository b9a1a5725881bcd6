"""The recovery drills of each VM, as the events tell of them, and their plans. They outlive their VM, as its backups do. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from libs.common.messages import Recorded, decode_meta
from proto import drills as d
from proto.drills import Went

KEPT_MAX = 16
"""of one VM: the newest"""

DrillState = Literal["waiting", "recovering", "booting", "checking", "passed", "failed"]
GOES_ON = frozenset({"waiting", "recovering", "booting", "checking"})


class Drill(msgspec.Struct):
    """backup: which it is of; before its turn: which was asked for, empty: the newest. target: the VM that it makes. check: what is
    run inside, empty: that the agent answers is enough; agent: False: it has none. asked_us, started_us (its turn), ended_us
    (its result), cleaned_us (nothing is left): the log's, microseconds since the epoch, 0: not yet. first_ms, agent_ms,
    took_ms: from its turn until it ran, until its guest's agent answered, until its result. rpo_s: how old the backup was as its
    turn came. last_line: of output. due_us: the plan's time that it is for; 0: somebody asked."""

    id: str
    vm: str
    project: str
    state: DrillState
    backup: str
    check: tuple[str, ...]
    agent: bool
    timeout_s: int
    asked_us: int
    target: str = ""
    taken_us: int = 0
    started_us: int = 0
    ended_us: int = 0
    cleaned_us: int = 0
    node: str = ""
    first_ms: int | None = None
    agent_ms: int | None = None
    took_ms: int | None = None
    rpo_s: float | None = None
    exit_code: int | None = None
    output: str = ""
    last_line: str = ""
    reason: str = ""
    sentence: str = ""
    due_us: int = 0
    actor: str = ""
    task: str = ""


class VmDrillPlan(msgspec.Struct):
    """set_us: as it was set, by io's clock."""

    vm: str
    project: str
    plan: d.DrillPlan
    set_us: int


@dataclass(slots=True)
class DrillsView:
    """all: of each VM, the oldest first; plans: by VM."""

    all: dict[str, list[Drill]] = field(default_factory=dict)
    plans: dict[str, VmDrillPlan] = field(default_factory=dict)

    def every(self) -> Iterator[Drill]:
        return (one for drills in self.all.values() for one in drills)

    def last(self, vm: str) -> Drill | None:
        """The newest that has a result."""
        return next((one for one in reversed(self.all.get(vm, ())) if one.state not in GOES_ON), None)

    def passed(self, vm: str) -> Drill | None:
        """The newest that passed."""
        return next((one for one in reversed(self.all.get(vm, ())) if one.state == "passed"), None)

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case d.DrillPlanSet(vm=vm, plan=plan):
                self.plans.pop(vm, None)
                if plan is not None:
                    self.plans[vm] = VmDrillPlan(vm, decode_meta(recorded.meta).project, plan, event.at_us)
            case d.DrillRequested():
                self._begin(recorded, event)
            case (
                d.DrillStarted() | d.DrillWent() | d.DrillPassed() | d.DrillFailed() | d.DrillCleaned()
            ) if (one := self._find(event)) is not None:  # fmt: skip
                _goes_on(one, event, recorded.at_us)
            case _:
                return

    def _find(self, event: Any) -> Drill | None:
        return next((one for one in reversed(self.all.get(event.vm, ())) if one.id == event.drill), None)

    def _begin(self, recorded: Recorded, event: d.DrillRequested) -> None:
        meta, wish = decode_meta(recorded.meta), event.wish
        one = Drill(
            id=event.drill, vm=event.vm, project=meta.project, state="waiting", backup=event.backup, check=wish.check,
            agent=wish.agent, timeout_s=wish.timeout_s, asked_us=recorded.at_us, due_us=event.due_us, actor=meta.actor,
            task=meta.correlation,
        )  # fmt: skip
        self.all[event.vm] = [*self.all.get(event.vm, []), one][-KEPT_MAX:]


def _goes_on(one: Drill, event: Any, at_us: int) -> None:
    match event:
        case d.DrillStarted():
            one.state, one.target, one.backup, one.taken_us, one.started_us = (
                "recovering", event.target, event.backup, event.taken_us, at_us,
            )  # fmt: skip
            one.rpo_s = round(max(0, at_us - event.taken_us) / 1e6, 3)
        case d.DrillWent():
            _went(one, event)
        case d.DrillPassed() | d.DrillFailed():
            one.state, one.ended_us, one.took_ms = "passed", at_us, event.after_ms
            one.exit_code, one.output, one.last_line = event.exit_code, event.output, _last(event.output)
            if isinstance(event, d.DrillFailed):
                one.state, one.reason, one.sentence = "failed", event.reason.value, event.sentence
        case d.DrillCleaned():
            one.cleaned_us = at_us


def _went(one: Drill, event: d.DrillWent) -> None:
    if one.state not in GOES_ON:
        return
    match event.went:
        case Went.DISKS:
            one.state = "booting"
        case Went.PLACED:
            one.node = event.node
        case Went.RAN:
            one.state, one.node = "checking", event.node
            one.first_ms = event.after_ms if one.first_ms is None else one.first_ms
        case Went.AGENT:
            one.agent_ms = event.after_ms
        case _:
            return


def _last(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
