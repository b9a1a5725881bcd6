"""VMs whose schedule is not kept: nothing to recover from that is young enough. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from libs.common import cron
from libs.common.instants import utc
from services.gateway.ha_alerts import Said
from services.gateway.views.backup_plans import PlansView, VmPlan
from services.gateway.views.backups import BackupsView

PERIODS_MAX = 2
"""A backup may be late, or fail once: then the next one is there before so many of its periods are over."""


def said(
    plans: PlansView, backups: BackupsView, vms: Collection[str], now_us: int, sees: Callable[[str], bool]
) -> Iterator[Said]:
    """vms: those that there are."""
    for vm, planned in plans.all.items():
        if vm not in vms or not sees(planned.project):
            continue
        newest = backups.newest(vm)
        period_us = cron.period_us(planned.plan.cron, now_us)
        taken_us = newest.current_us if newest is not None else 0
        late_us = max(taken_us, planned.set_us) + PERIODS_MAX * period_us
        if period_us and now_us > late_us:
            yield _late(planned, newest.id if newest is not None else "", taken_us, late_us, now_us)


def _late(planned: VmPlan, newest: str, taken_us: int, late_us: int, now_us: int) -> Said:
    vm, plan = planned.vm, planned.plan
    hours = (now_us - taken_us) / 3_600_000_000
    have = f"its newest sound backup, {newest}, is of {utc(taken_us)}, {hours:.1f} h ago" if newest else "it has no sound backup"
    why = f"; {planned.put_off.sentence}" if planned.put_off is not None else ""
    sentence = f'{vm} is to be backed up at "{plan.cron}", and {have}: that much would be lost{why}'
    remedy = f"see asvctl backup ls {vm}; then: asvctl backup create {vm} --pool {plan.pool}"
    return Said("backup-late", f"vm/{vm}", late_us, sentence, remedy)
