"""VMs whose recovery was tried and failed, or is not tried as often as it is to be. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from libs.common import cron
from libs.common.instants import utc
from services.gateway.ha_alerts import Said
from services.gateway.views.drills import DrillsView

PERIODS_MAX = 2
"""One may fail for want of room: then the next has passed before so many of its periods are over."""
CLEANING_US_MAX = 900_000_000
"""after its result, until nothing of it is left"""


def said(drills: DrillsView, vms: Collection[str], now_us: int, sees: Callable[[str], bool]) -> Iterator[Said]:
    """vms: those that there are."""
    for vm in drills.all:
        last = drills.last(vm)
        if last is None or not sees(last.project):
            continue
        if last.state == "failed" and last.reason != "cancelled":
            what = f"the backup {last.backup}" if last.backup else "its newest backup"
            sentence = f"the last recovery drill of {vm}, of {what}, failed ({last.reason}): {last.sentence}"
            yield Said("drill-failed", f"vm/{vm}", last.ended_us, sentence, _remedy(vm, last.reason))
        if last.target and not last.cleaned_us and now_us > last.ended_us + CLEANING_US_MAX:
            sentence = f"the VM {last.target} of a recovery drill of {vm} is still there, {utc(last.ended_us)} it was to go"
            yield Said("drill-left", f"vm/{last.target}", last.ended_us, sentence, f"see asvctl why vm/{last.target}")
    yield from _late(drills, vms, now_us, sees)


def _remedy(vm: str, reason: str) -> str:
    if reason == "no-room":
        return f"make room, or drill it at another time: asvctl recovery drill {vm}"
    return f"see asvctl recovery drills {vm}; when it is mended: asvctl recovery drill {vm}"


def _late(drills: DrillsView, vms: Collection[str], now_us: int, sees: Callable[[str], bool]) -> Iterator[Said]:
    for vm, planned in drills.plans.items():
        if vm not in vms or not sees(planned.project):
            continue
        passed = drills.passed(vm)
        since_us = max(passed.ended_us if passed is not None else 0, planned.set_us)
        period_us = cron.period_us(planned.plan.cron, now_us)
        late_us = since_us + PERIODS_MAX * period_us
        if period_us and now_us > late_us:
            have = f"the last that passed is of {utc(passed.ended_us)}" if passed is not None else "none has passed yet"
            sentence = f'{vm} is to be drilled at "{planned.plan.cron}", and {have}'
            yield Said("drill-late", f"vm/{vm}", late_us, sentence, f"see asvctl recovery drills {vm}")
