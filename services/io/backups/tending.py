"""A schedule is set, and what it wants is decided, by ticks. Pure; a part of model.py.

    a time has come, and it is the VM's turn ──▶ BackupRequested{plan}
         │ it cannot be taken (a pool is full …), or was not ──▶ BackupPutOff ─ 5 min, doubled, at most until the next time ─┐
         └──────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
    else a time to read them again ──▶ BackupVerifyRequested, one chain after the other
    else one that is kept no more ──▶ BackupDeleteRequested, one after the other

Where a VM is on its way (started, stopped, moved) it only waits: that ends by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common import cron
from libs.common.decider import Refused
from libs.common.messages import VmId
from proto.backup_plans import (
    SCHEDULE,
    BackupPlan,
    BackupPlanSet,
    BackupPutOff,
    Chore,
    PlansEvent,
    SetBackupPlan,
    TendBackups,
    Worker,
)
from proto.backups import BackupRequested, BackupsEvent, DeleteBackup, TakeBackup, VerifyBackup
from proto.io import Refusal
from proto.pools import PoolKind
from services.io.backups import removing, taking
from services.io.backups.chain import chain
from services.io.backups.plans import again_us, retained, unread, wanted
from services.io.backups.states import Backup, Backups, Schedule

AT_ONCE_MAX = 2
"""things done with backups at a time on one node, by schedules: each of them reads or writes whole disks"""


def set_plan(command: SetBackupPlan, state: Backups) -> Sequence[PlansEvent]:
    """Raises Refused."""
    vm, plan, now = command.vm, command.plan, state.schedule
    if plan == (now.plan if now is not None else None):
        return ()
    if plan is not None:
        if not command.known.defined:
            raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {vm}", "name one that exists")
        _check_time(plan.cron, "the time of its backups")
        if plan.verify:
            _check_time(plan.verify, "the time to verify them")
        _check_pool(command, plan)
    return [BackupPlanSet(vm=VmId(vm), at_us=command.known.at_us, plan=plan)]


def _check_time(expression: str, what: str) -> None:
    """Raises Refused."""
    if wrong := cron.fault(expression):
        raise Refused(Refusal.BAD_TIME, f"{what}, {expression!r}, is none: {wrong}", f"give one as in {cron.EXAMPLE}")


def _check_pool(command: SetBackupPlan, plan: BackupPlan) -> None:
    """Raises Refused. Whether the VM's node reaches it is seen when a backup is due: it may be elsewhere then."""
    if not command.known.nodes:
        raise Refused(Refusal.POOL_UNKNOWN, f"no node has a pool {plan.pool}", "name one that there is (asvctl pool ls)")
    kind = command.known.room.kind if command.known.room is not None else PoolKind.LOCAL
    if kind in (PoolKind.NBD, PoolKind.RBD):
        said = f"pool {plan.pool} is {kind}: a backup is a folder of files, which only a pool that is a folder has"
        raise Refused(Refusal.BAD_DEVICE, said, "name a pool that is a folder")


# --- by ticks ----------------------------------------------------------------------------------------------------------------


def tend(tick: TendBackups, state: Backups) -> Sequence[BackupsEvent | PlansEvent]:
    schedule = state.schedule
    if schedule is None or state.doing is not None or tick.known.backup.definition is None:
        return ()
    if schedule.taking.unsaid:
        failed = schedule.taking
        return [_put_off(tick, schedule, Chore.TAKE, schedule.planned_us, failed.failures, failed.sentence)]
    if schedule.letting.unsaid:
        failed = schedule.letting
        return [_put_off(tick, schedule, Chore.DELETE, schedule.planned_us, failed.failures, failed.sentence)]
    if due_us := wanted(schedule, tick.now_us):
        return _take(tick, schedule, due_us, state) if tick.turn else ()
    return _verify(tick, schedule, state) or _let_go(tick, schedule, state)


def _put_off(tick: TendBackups, schedule: Schedule, chore: Chore, due_us: int, failures: int, sentence: str) -> BackupPutOff:
    until_us = again_us(failures, tick.now_us, schedule.plan.cron if chore is Chore.TAKE else "")
    return BackupPutOff(
        vm=VmId(tick.vm), chore=chore, due_us=due_us, failures=failures, until_us=until_us, sentence=sentence
    )


def _take(tick: TendBackups, schedule: Schedule, due_us: int, state: Backups) -> Sequence[BackupsEvent | PlansEvent]:
    plan = schedule.plan
    wish = TakeBackup(
        vm=tick.vm, pool=plan.pool, freeze=plan.freeze, rate_mibps=plan.rate_mibps, compress=plan.compress,
        known=tick.known.backup, incarnation=tick.incarnation,
    )  # fmt: skip
    try:
        decided = taking.take(wish, state)
    except Refused as no:
        if no.reason is Refusal.BUSY:
            return ()
        failures = schedule.taking.failures + 1 if due_us == schedule.planned_us else 1
        return [_put_off(tick, schedule, Chore.TAKE, due_us, failures, no.sentence)]
    return [_planned(event, due_us, plan, state.backups) for event in decided]


def _planned(event: BackupsEvent, due_us: int, plan: BackupPlan, backups: Sequence[Backup]) -> BackupsEvent:
    if not isinstance(event, BackupRequested):
        return event
    parent = event.parent if len(chain(backups, event.parent)) < plan.full_every else ""
    return replace(event, plan=SCHEDULE, due_us=due_us, parent=parent)


def _verify(tick: TendBackups, schedule: Schedule, state: Backups) -> Sequence[BackupsEvent]:
    id, due_us = unread(schedule, state.backups, tick.now_us)
    one = next((one for one in state.backups if one.id == id), None)
    worker = _worker(tick, one) if one is not None else None
    if worker is None:
        return ()
    decided = removing.verify(VerifyBackup(vm=tick.vm, backup=id, node=worker.node), state)
    return [replace(event, due_us=due_us) for event in decided]


def _let_go(tick: TendBackups, schedule: Schedule, state: Backups) -> Sequence[BackupsEvent]:
    """The first of them that can be: what is refused now (its pool has no room to write heirs anew) waits."""
    if schedule.letting.until_us > tick.now_us:
        return ()
    known = {one.id: one for one in state.backups}
    for id in retained(state.backups, state.holds, schedule.plan):
        if (worker := _worker(tick, known[id])) is None:
            continue
        try:
            wish = DeleteBackup(
                vm=tick.vm, backup=id, node=worker.node, room=worker.room, standing=tick.known.standing.get(id, ""),
                unheard=tick.known.unheard, at_us=tick.now_us,
            )  # fmt: skip
            decided = removing.delete(wish, state)
        except Refused:
            continue
        return [replace(event, plan=SCHEDULE) for event in decided]
    return ()


def _worker(tick: TendBackups, one: Backup) -> Worker | None:
    """Who is to do it: a node that reaches it and does not do too much already."""
    able = (each for each in tick.known.workers if (each.pool, each.pool_id) == (one.pool, one.pool_id))
    return next((each for each in able if each.busy < AT_ONCE_MAX), None)
