"""/v1/vms/VM/backup-plan: when a VM is backed up by itself, and what is kept. Also of a VM that was deleted: it counts again once
there is one of that name."""

from __future__ import annotations

import msgspec
from litestar import delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common import cron
from libs.common.messages import Name
from proto.backup_plans import BackupPlan, Cron, FullEvery, Keep, SetBackupPlan
from proto.backups import CHAIN_MAX, KeyWord, RateMibps
from proto.machine import Freeze
from services.gateway.auth import Action
from services.gateway.backup_turns import waits
from services.gateway.commands import Accepted
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker
from services.gateway.views.backup_plans import PutOff

KIND = "backup-plan"


class BackupPlanBody(Body):
    """The whole of it. cron: `minute hour day-of-month month day-of-week`, in UTC; verify: likewise, when all are read again,
    empty: never. full_every: of so many in a row one is full. keep_last: the newest; keep_daily, keep_weekly, keep_monthly: the
    newest of each of so many days, weeks and months that have one; all 0: every one is kept. encrypt, key: as of a backup."""

    cron: Cron
    pool: Name
    freeze: Freeze = Freeze.AUTO
    rate_mibps: RateMibps = 0
    compress: bool = False
    full_every: FullEvery = CHAIN_MAX
    keep_last: Keep = 0
    keep_daily: Keep = 0
    keep_weekly: Keep = 0
    keep_monthly: Keep = 0
    verify: Cron = ""
    encrypt: bool = False
    key: KeyWord = ""


class ShownPlan(msgspec.Struct):
    """plan: none: nothing is done by itself. next_us, verify_us: when it is next to be taken, and all to be read again, 0: never;
    last_us: its newest time for which one was asked for. put_off: what failed, while it is to be tried again.
    waiting: why one that is due by now is not being taken."""

    vm: str
    exists: bool
    plan: BackupPlanBody | None = None
    set_us: int = 0
    last_us: int = 0
    next_us: int = 0
    verify_us: int = 0
    put_off: PutOff | None = None
    waiting: str = ""


def plan_of(gateway: Gateway, vm: str) -> ShownPlan:
    exists, found = vm in gateway.model.vms.all, gateway.model.plans.all.get(vm)
    if found is None:
        return ShownPlan(vm, exists)
    plan, now_us = found.plan, gateway.clock.now_us()
    verify_us = cron.following(plan.verify, now_us) if plan.verify and exists else 0
    next_us = cron.following(plan.cron, now_us) if exists else 0
    body = BackupPlanBody(**msgspec.structs.asdict(plan))
    why = waits(gateway.model, vm, now_us)
    return ShownPlan(vm, exists, body, found.set_us, found.last_us, next_us, verify_us, found.put_off, why)


@get("/{vm:str}/backup-plan", action=Action.READ, summary="When a VM is backed up by itself")
async def show_backup_plan(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> ShownPlan:
    await gateway.catalogue(request.user, vm)
    return plan_of(gateway, vm)


@put("/{vm:str}/backup-plan", action=Action.OPERATE, status_code=202, summary="Set when a VM is backed up by itself")
async def set_backup_plan(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[BackupPlanBody]
) -> Accepted:
    """Replaces what there was. Times that were missed while nothing could be done are made up for once."""
    found = await gateway.vm(request.user, vm)
    return await _set(request, gateway, vm, found.project, BackupPlan(**msgspec.structs.asdict(data)))


@delete("/{vm:str}/backup-plan", action=Action.OPERATE, status_code=202, summary="Back a VM up by itself no more")
async def delete_backup_plan(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    """What was taken stays."""
    project = await gateway.catalogue(request.user, vm)
    return await _set(request, gateway, vm, project, None)


async def _set(request: Asked, gateway: Gateway, vm: str, project: str, plan: BackupPlan | None) -> Accepted:
    command = SetBackupPlan(vm=vm, plan=plan)
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"backups-{vm}", command, project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, KIND, vm, project, f"the schedule of {vm} was so already")
    return accepted


HANDLERS = [show_backup_plan, set_backup_plan, delete_backup_plan]
