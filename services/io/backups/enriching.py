"""What a command about backups is told by io's own view: what the VM is, who reaches what. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from proto.backup_files import ReadBackupFiles
from proto.backup_plans import PlanKnown, SetBackupPlan, TendBackups, TendKnown, Worker
from proto.backups import BackupKnown, Definition, DeleteBackup, EndBackup, TakeBackup, VerifyBackup
from proto.devices import VmPhase
from proto.drills import AnswerDrill, CancelDrill, DrillKnown, DrillVm, SetDrillPlan, TendDrill
from proto.machine import Disk, DiskWish, Nic, NicWish
from proto.recovery import AnswerRecovery, EndRecovery, NoteRecovery, RecoverKnown, RecoverVm
from services.io.backups import keys, watch_views
from services.io.backups.views import Saved
from services.io.reach import chosen, reaching

if TYPE_CHECKING:
    from services.io.views import Views


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only io's own views may say, whoever sent the command."""
    match command:
        case TakeBackup():
            return replace(command, known=_known(command, views, now_us))
        case DeleteBackup():
            saved = _saved(command, views)
            node, keyless = _keyed(command.vm, saved, views, now_us)
            room = views.pools.room(node, saved.pool, now_us) if saved is not None and node else None
            standing = views.recoveries.stood_on(command.vm).get(command.backup, "")
            unheard = views.unheard(command.incarnation)
            return replace(command, node=node, room=room, standing=standing, unheard=unheard, keyless=keyless, at_us=now_us)
        case ReadBackupFiles():
            node, keyless = _keyed(command.vm, _saved(command, views), views, now_us)
            return replace(command, node=node, keyless=keyless, at_us=now_us)
        case VerifyBackup():
            return replace(command, node=_worker(command.vm, _saved(command, views), views, now_us))
        case EndBackup():
            doing = views.backups.doing.get(command.vm)
            lost = doing.node if doing is not None else ""
            return replace(command, node=_keyed(command.vm, _saved(command, views), views, now_us, lost)[0])
        case RecoverVm():
            vm, held = views.vms.get(command.target), views.disks.get(command.target)
            known = _recover(command.vm, command.backup, views)
            phase, removing = vm.phase if vm is not None else VmPhase.UNKNOWN, held.node if held is not None and vm is None else ""
            return replace(command, known=replace(known, phase=phase, removing=removing))
        case DrillVm() | CancelDrill() | AnswerDrill() | SetDrillPlan() | TendDrill():
            return replace(command, known=_drill(command, views, now_us))
        case AnswerRecovery():
            return replace(command, known=views.agents.known(command, now_us))
        case NoteRecovery() | EndRecovery():
            return replace(command, seen=watch_views.seen(command.vm, command.recovery, views, now_us))
        case SetBackupPlan():
            return replace(command, known=_plan(command, views, now_us))
        case TendBackups():
            return replace(command, known=_tend(command, views, now_us))
        case _:
            return command


def _drill(command: DrillVm | CancelDrill | AnswerDrill | SetDrillPlan | TendDrill, views: Views, now_us: int) -> DrillKnown:
    known = DrillKnown(defined=command.vm in views.backups.defined, at_us=now_us)
    if isinstance(command, DrillVm) or (isinstance(command, TendDrill) and command.turn):
        backup = command.backup if isinstance(command, DrillVm) else ""
        known = replace(known, recover=_recover(command.vm, backup, views))
    return known


def _recover(vm: str, backup: str, views: Views) -> RecoverKnown:
    """Of one backup, or of all (empty): who reaches it, and whether the image that it is started from is there."""
    asked = {id: one for id, one in views.backups.saved.get(vm, {}).items() if backup in ("", id)}
    images = {one.boot_image for one in asked.values() if one.boot_image in views.images}
    nodes = {id: reaching(views.nodes, {one.pool: one.pool_id}) for id, one in sorted(asked.items())}
    keyed = {id: tuple(keys.by_key(views.nodes).get(one.key, ())) for id, one in sorted(asked.items()) if one.key}
    return RecoverKnown(images=tuple(sorted(images)), nodes=nodes, keyed=keyed)


def _known(command: TakeBackup, views: Views, now_us: int) -> BackupKnown:
    vm, defined = views.vms.get(command.vm), views.backups.defined.get(command.vm)
    if vm is None or defined is None:
        return BackupKnown()
    held = views.disks.get(command.vm)
    disks, pool = held.disks if held is not None else (), command.pool
    resting = vm.phase is VmPhase.STOPPED
    known = BackupKnown(
        phase=vm.phase, disks=disks, node=held.node if held is not None else "",
        definition=present(defined, disks, held.nics) if held is not None else defined,
        generation=0 if resting else views.backups.holders.get(command.vm, 0), written=views.backups.holders.get(command.vm, 0),
    )  # fmt: skip
    if command.encrypt or command.key:
        known = replace(known, keys=keys.by_key(views.nodes))
    if resting:
        wanted = {d.pool: d.pool_id for d in disks if not d.bus.is_cd}
        able = reaching(views.nodes, {pool: ""} | wanted)
        having = {node for key in keys.called(command.key, known.keys) for node in known.keys[key]}
        able = tuple(node for node in able if node in having) or able
        known = replace(known, node=chosen(able, views.nodes, now_us, known.node))
    there = views.nodes.get(known.node)
    if there is None or pool not in there.pools:
        return replace(known, has=tuple(sorted(there.pools)) if there is not None else (), nodes=reaching(views.nodes, {pool: ""}))
    room = views.pools.room(known.node, pool, now_us)
    return replace(known, reached=True, room=replace(room, id=there.pool_ids.get(pool, room.id)))


def present(defined: Definition, disks: Sequence[Disk], nics: Sequence[Nic]) -> Definition:
    """With its devices as they are, as a definition would ask for them."""
    wished = [
        DiskWish(
            size_mib=d.size_mib, image=d.image, format=d.format, pool=d.pool, bus=d.bus, limits=d.limits, first=d.first, seed=d.seed
        )
        for d in disks
    ]
    cards = [NicWish(network=n.network, model=n.model, queues=n.queues) for n in nics]
    return replace(defined, disks=tuple(wished), nics=tuple(cards))


def _saved(command: DeleteBackup | VerifyBackup | EndBackup | ReadBackupFiles, views: Views) -> Saved | None:
    return views.backups.saved.get(command.vm, {}).get(command.backup)


def _worker(vm: str, saved: Saved | None, views: Views, now_us: int) -> str:
    """A node that reaches a backup: the VM's, where it does; empty: none does."""
    return _of(reaching(views.nodes, {saved.pool: saved.pool_id}), vm, views, now_us) if saved is not None else ""


def _of(able: Sequence[str], vm: str, views: Views, now_us: int) -> str:
    held = views.disks.get(vm)
    return chosen(able, views.nodes, now_us, held.node if held else "")


def _keyed(vm: str, saved: Saved | None, views: Views, now_us: int, lost: str = "") -> tuple[str, tuple[str, ...]]:
    """As `_worker`, but one that has its key, too; where none has, those that reach it."""
    if saved is None:
        return "", ()
    there = tuple(node for node in reaching(views.nodes, {saved.pool: saved.pool_id}) if node != lost)
    able = tuple(node for node in keys.able(views.nodes, saved) if node != lost)
    return _of(able or there, vm, views, now_us), () if able else there if saved.key else ()


def _plan(command: SetBackupPlan, views: Views, now_us: int) -> PlanKnown:
    pool = command.plan.pool if command.plan is not None else ""
    nodes = reaching(views.nodes, {pool: ""}) if pool else ()
    room = views.pools.room(nodes[0], pool, now_us) if nodes else None
    return PlanKnown(
        defined=command.vm in views.backups.defined, nodes=nodes, room=room, at_us=now_us, keys=keys.by_key(views.nodes)
    )


def _tend(tick: TendBackups, views: Views, now_us: int) -> TendKnown:
    schedule, defined = views.plans.schedules.get(tick.vm), views.backups.defined.get(tick.vm)
    if schedule is None or defined is None:
        return TendKnown()
    if tick.turn:
        plan = schedule.plan
        wish = TakeBackup(vm=tick.vm, pool=plan.pool, encrypt=plan.encrypt, key=plan.key)
        return TendKnown(backup=_known(wish, views, now_us))
    saved = views.backups.saved.get(tick.vm, {})
    where = {(one.pool, one.pool_id, one.key): one for one in saved.values()}
    busy = working(views)
    found = ((at, *_keyed(tick.vm, one, views, now_us)) for at, one in sorted(where.items()))
    workers = (
        Worker(
            pool=pool, pool_id=id, key=key, node=node, room=views.pools.room(node, pool, now_us), busy=busy.get(node, 0),
            keyless=keyless,
        )
        for (pool, id, key), node, keyless in found
        if node
    )  # fmt: skip
    return TendKnown(
        backup=BackupKnown(definition=defined), workers=tuple(workers), standing=views.recoveries.stood_on(tick.vm),
        unheard=views.unheard(tick.incarnation),
    )  # fmt: skip


def working(views: Views) -> dict[str, int]:
    """How much each node does with backups."""
    busy: dict[str, int] = {}
    for doing in views.backups.doing.values():
        busy[doing.node] = busy.get(doing.node, 0) + 1
    return busy
