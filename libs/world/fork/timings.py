"""How long things take in this cluster, by its own log: starts, ends, moves. What it does not hold is a default."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from libs.common.messages import Recorded
from libs.common.registry import Registry
from libs.world.fork.beats import Moment
from proto.compute import GoneCause, VmLaunchRequested, VmStarted, VmStopped, VmStopRequested
from proto.guard import VmRecovered
from proto.migration import VmMigrated
from proto.upcasts import UPCASTS
from services.node.drivers.simparams import SimParams

SAMPLES_MAX = 500
"""of each kind, the newest"""
_EVENTS = Registry((VmLaunchRequested, VmStarted, VmStopped, VmStopRequested, VmMigrated, VmRecovered), UPCASTS)


class Spread(msgspec.Struct, frozen=True):
    """Milliseconds; low_ms: p10. known: how many were seen, of the newest; 0: it is a default."""

    least_ms: float
    low_ms: float
    median_ms: float
    p90_ms: float
    most_ms: float
    known: int = 0


class Timings(msgspec.Struct, frozen=True):
    """start: from the order to a guest that runs. power_off: from the wish to the end, where the guest is not asked; shutdown:
    where it is. move: a guest's way. recovery: from a VM's loss to its running elsewhere (nothing is simulated by it)."""

    start: Spread
    power_off: Spread
    shutdown: Spread
    move: Spread
    recovery: Spread | None = None

    def params(self, moment: Moment = Moment.CHANCE) -> SimParams:
        """A start takes between its low and its p90 time, by chance; the least that was seen, or the most."""
        least_ms, most_ms = {
            Moment.CHANCE: (self.start.low_ms, self.start.p90_ms),
            Moment.EARLY: (self.start.least_ms, self.start.least_ms),
            Moment.LATE: (self.start.most_ms, self.start.most_ms),
        }[moment]
        return SimParams(
            lease_us=0, start_us=round(least_ms * 1000), jitter_us=round((most_ms - least_ms) * 1000),
            kill_us=round(self.power_off.median_ms * 1000), shutdown_us=round(self.shutdown.median_ms * 1000),
            move_us=round(self.move.median_ms * 1000),
        )  # fmt: skip


def learnt(events: Iterable[Recorded]) -> Timings:
    seen: defaultdict[str, list[float]] = defaultdict(list)
    since: dict[tuple[str, str, int], int] = {}
    for recorded in events:
        if recorded.type in _EVENTS.classes:
            _look(recorded.at_us, _EVENTS.event(recorded), since, seen)
    default = SimParams()
    return Timings(
        start=_spread(seen["start"], default.lease_us + default.start_us, default.jitter_us),
        power_off=_spread(seen["power_off"], default.kill_us),
        shutdown=_spread(seen["shutdown"], default.shutdown_us),
        move=_spread(seen["move"], default.move_us),
        recovery=_spread(seen["recovery"], 0) if seen["recovery"] else None,
    )


def _look(at_us: int, event: Any, since: dict[tuple[str, str, int], int], seen: dict[str, list[float]]) -> None:
    match event:
        case VmLaunchRequested():
            since["start", event.vm, event.spec.generation] = at_us
        case VmStarted() if began_us := since.pop(("start", event.vm, event.generation), 0):
            seen["start"].append((at_us - began_us) / 1000)
        case VmStopRequested():
            since["stop" if event.deadline_s else "power_off", event.vm, event.generation] = at_us
        case VmStopped():
            off_us = since.pop(("power_off", event.vm, event.generation), 0)
            asked_us = since.pop(("stop", event.vm, event.generation), 0)
            if off_us and event.cause is GoneCause.ORDERED:
                seen["power_off"].append((at_us - off_us) / 1000)
            elif asked_us and event.cause in (GoneCause.GUEST, GoneCause.ORDERED):
                seen["shutdown"].append((at_us - asked_us) / 1000)
        case VmMigrated() if event.total_ms:
            seen["move"].append(event.total_ms)
        case VmRecovered():
            seen["recovery"].append(event.after_ms)


def _spread(samples: list[float], default_us: int, jitter_us: int = 0) -> Spread:
    if not samples:
        least_ms, most_ms = default_us / 1000, (default_us + jitter_us) / 1000
        return Spread(least_ms, least_ms, (least_ms + most_ms) / 2, most_ms, most_ms)
    newest = sorted(samples[-SAMPLES_MAX:])
    return Spread(newest[0], part(newest, 0.1), part(newest, 0.5), part(newest, 0.9), newest[-1], len(newest))


def part(ordered: list[float], share: float) -> float:
    """The nearest rank; of a sorted, not empty list."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]
