"""A schedule is set, and what it wants is decided, by ticks. Pure; a part of model.py.

    a time has come, and it is the VM's turn ──▶ BackupRequested{plan}, or BackupUnchanged: its newest holds all that there is
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
    BackupUnchanged,
    Chore,
    PlansEvent,
    SetBackupPlan,
    TendBackups,
    Worker,
)
from proto.backups import BackupRequested, BackupsEvent, DeleteBackup, TakeBackup, VerifyBackup
from proto.io import Refusal
from proto.pools import PoolRoom, no_backups
from services.io.backups import keys, removing, taking
from services.io.backups.chain import chain, sound
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
        _check_key(command, plan)
    return [BackupPlanSet(vm=VmId(vm), at_us=command.known.at_us, plan=plan)]


def _check_time(expression: str, what: str) -> None:
    """Raises Refused."""
    if wrong := cron.fault(expression):
        raise Refused(Refusal.BAD_TIME, f"{what}, {expression!r}, is none: {wrong}", f"give one as in {cron.EXAMPLE}")


def _check_pool(command: SetBackupPlan, plan: BackupPlan) -> None:
    """Raises Refused. Whether the VM's node reaches it is seen when a backup is due: it may be elsewhere then."""
    if not command.known.nodes:
        raise Refused(Refusal.POOL_UNKNOWN, f"no node has a pool {plan.pool}", "name one that there is (asvctl pool ls)")
    said, remedy = no_backups(command.known.room or PoolRoom(name=plan.pool))
    if said:
        raise Refused(Refusal.BAD_DEVICE, said, remedy)


def _check_key(command: SetBackupPlan, plan: BackupPlan) -> None:
    """Raises Refused."""
    if not (plan.encrypt or plan.key):
        return
    if plan.compress:
        said = "a backup is compressed or encrypted, not both: QEMU would write what is compressed in the clear"
        raise Refused(Refusal.BAD_BACKUP, said, "leave out one of the two")
    keys.chosen(plan.key, command.known.keys)


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
        encrypt=plan.encrypt, key=plan.key, known=tick.known.backup, incarnation=tick.incarnation,
    )  # fmt: skip
    try:
        decided = taking.take(wish, state)
    except Refused as no:
        if no.reason is Refusal.BUSY:
            return ()
        failures = schedule.taking.failures + 1 if due_us == schedule.planned_us else 1
        return [_put_off(tick, schedule, Chore.TAKE, due_us, failures, no.sentence)]
    if (same := _unchanged(tick, decided, due_us, state)) is not None:
        return [same]
    return [_planned(event, due_us, plan, state.backups) for event in decided]


def _unchanged(tick: TendBackups, decided: Sequence[BackupsEvent], due_us: int, state: Backups) -> BackupUnchanged | None:
    """Where the VM is at rest as it was when its newest backup was taken, and no generation since might have written its disks:
    what was granted and never ran counts as one that did. Of another incarnation of the log, what ran may be lost with it."""
    last, wish = state.resting, next((event for event in decided if isinstance(event, BackupRequested)), None)
    if wish is None or last is None or wish.generation or not wish.written:
        return None
    one = next((one for one in sound(state.backups) if one.id == last.backup), None)
    if one is None or not one.id.startswith(f"b{tick.incarnation}-"):
        return None
    was, now = (last.written, last.disks, one.definition, one.pool, one.pool_id), (wish.written, wish.disks, wish.definition)
    if was != (*now, wish.pool, wish.pool_id):
        return None
    return BackupUnchanged(vm=VmId(tick.vm), backup=one.id, due_us=due_us, at_us=tick.now_us, generation=wish.written)


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
                unheard=tick.known.unheard, keyless=worker.keyless, at_us=tick.now_us,
            )  # fmt: skip
            decided = removing.delete(wish, state)
        except Refused:
            continue
        return [replace(event, plan=SCHEDULE) for event in decided]
    return ()


def _worker(tick: TendBackups, one: Backup) -> Worker | None:
    """Who is to do it: a node that reaches it and does not do too much already."""
    able = (each for each in tick.known.workers if (each.pool, each.pool_id, each.key) == (one.pool, one.pool_id, one.key))
    return next((each for each in able if each.busy < AT_ONCE_MAX), None)
