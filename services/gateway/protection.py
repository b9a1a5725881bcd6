"""How each VM is protected: what would be lost now, and how its last recovery went against what is promised. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from proto.recovery import FIRST_S_MAX as FIRST_S
from proto.recovery import NORMAL_S_MAX as HOME_S
from services.gateway.model import ReadModel
from services.gateway.views.recoveries import ENDED, Recovery

FIRST_S_MAX = float(FIRST_S)
"""within which a recovered VM is promised to run, whatever its size"""
HOME_S_MAX = float(HOME_S)
"""within which it is promised to stand on its own"""

Grade = Literal["met", "late", "going on", "waits", "failed", "untried", "unprotected"]


class Protected(msgspec.Struct):
    """Of one VM, with its newest recovery (of its own backups, under whatever name). exposed_s: since when its
    newest sound backup does not hold all that it wrote: what would be lost now. worst_times: how many times normal its writes took
    at worst while its data came home; off_s: by how much later that was than was first forecast; null: not known. kind:
    `recovery`, or `isolated` for one without networks. Of the rest see Recovery. drill: its newest that has a result, drilled:
    `passed`, `failed` or empty; drill_…: of that one; planned: when it is drilled by itself."""

    vm: str
    exists: bool
    backups: int
    grade: Grade
    said: str = ""
    newest: str = ""
    newest_us: int = 0
    exposed_s: float | None = None
    recovery: str = ""
    kind: str = ""
    target: str = ""
    state: str = ""
    requested_us: int = 0
    first_ms: int | None = None
    agent_ms: int | None = None
    home_s: float | None = None
    rpo_s: float | None = None
    drill: str = ""
    drilled: str = ""
    drill_us: int = 0
    drill_said: str = ""
    drill_first_ms: int | None = None
    drill_agent_ms: int | None = None
    drill_rpo_s: float | None = None
    planned: str = ""
    worst_times: float | None = None
    off_s: float | None = None


class Report(msgspec.Struct):
    """at_us: the moment it is of; the two promises, in seconds; items: by name."""

    at_us: int
    first_s_max: float
    home_s_max: float
    items: list[Protected]


def report(model: ReadModel, recoveries: Iterable[Recovery], sees: Callable[[str], bool], now_us: int) -> Report:
    """Of all VMs, and of those that were deleted and have backups. recoveries: as they are shown."""
    last = _newest(recoveries)
    items = [_protected(model, vm, last.get(vm), now_us) for vm, project in sorted(_every(model)) if sees(project)]
    return Report(now_us, FIRST_S_MAX, HOME_S_MAX, items)


def _every(model: ReadModel) -> Iterator[tuple[str, str]]:
    yield from ((vm.name, vm.project) for vm in model.vms.all.values())
    yield from ((vm, kept[0].project) for vm, kept in model.backups.all.items() if vm not in model.vms.all)


def _newest(recoveries: Iterable[Recovery]) -> dict[str, Recovery]:
    """By whose backup. What a drill recovers is told with the drill."""
    return {one.source: one for one in sorted(recoveries, key=lambda one: one.requested_us) if not one.drill}


def _protected(model: ReadModel, vm: str, last: Recovery | None, now_us: int) -> Protected:
    newest = model.backups.newest(vm)
    exposed_s = round(max(0, now_us - newest.current_us) / 1e6, 3) if newest is not None else None
    grade, said = _grade(last, now_us) if last is not None else ("untried", "") if newest is not None else ("unprotected", "")
    found = Protected(
        vm, vm in model.vms.all, len(model.backups.of(vm)), grade, said, newest.id if newest else "",
        newest.taken_us if newest else 0, exposed_s,
    )  # fmt: skip
    if last is not None:
        found.recovery, found.kind, found.target = last.id, "isolated" if last.isolated else "recovery", last.target
        found.state, found.requested_us, found.rpo_s = last.state, last.requested_us, last.rpo_s
        found.first_ms, found.agent_ms, found.home_s = last.first_ms, last.agent_ms, last.home_s
        if (graded := last.grade) is not None:
            found.worst_times, found.off_s = graded.worst_times or None, graded.off_s if graded.forecast_us else None
    _drilled(model, found)
    return found


def _drilled(model: ReadModel, found: Protected) -> None:
    planned, last = model.drills.plans.get(found.vm), model.drills.last(found.vm)
    found.planned = planned.plan.cron if planned is not None else ""
    if last is not None:
        found.drill, found.drilled, found.drill_us = last.id, last.state, last.started_us or last.asked_us
        found.drill_said = f"{last.reason}: {last.sentence}" if last.state == "failed" else last.last_line
        found.drill_first_ms, found.drill_agent_ms, found.drill_rpo_s = last.first_ms, last.agent_ms, last.rpo_s


def _grade(one: Recovery, now_us: int) -> tuple[Grade, str]:
    """Against the promises, with why. One that goes on is late as soon as they cannot be kept any more."""
    if one.state in ("refused", "gone"):
        return "failed", one.sentence or "it was deleted before it stood on its own"
    since_s = (now_us - one.requested_us) / 1e6
    first_s = one.first_ms / 1000 if one.first_ms is not None else since_s if one.start and one.state not in ENDED else 0.0
    home_s = one.home_s if one.home_s is not None else since_s
    late = [f"it ran after {first_s:.0f} s" if one.first_ms is not None else f"it did not run within {FIRST_S_MAX:.0f} s"]
    late = late if first_s > FIRST_S_MAX else []
    if home_s > HOME_S_MAX:
        late.append(f"it stood on its own after {home_s:.0f} s" if one.home_s is not None else f"not its own after {home_s:.0f} s")
    if one.state == "waiting":
        return "waits", one.sentence
    if late:
        return "late", "; ".join(late)
    return ("met", "") if one.state == "independent" else ("going on", one.sentence)
