"""/v1/vms/VM/backups: taken, shown, verified, given up and deleted. Also of a VM that was deleted: its catalogue is there still."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.messages import Command, Name
from proto.backups import CancelBackup, DeleteBackup, KeyWord, RateMibps, TakeBackup, VerifyBackup
from proto.machine import BACKUP_NAME, Freeze
from services.gateway.auth import Action, Principal
from services.gateway.commands import Accepted
from services.gateway.copies import BACKUP, Progress, progress
from services.gateway.gateway import Gateway
from services.gateway.http.backup_plans import ShownPlan, plan_of
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker
from services.gateway.problems import Problem
from services.gateway.views.backups import BackupFailure, BackupRead, VmBackup

BackupId = Annotated[str, msgspec.Meta(pattern=BACKUP_NAME, max_length=63)]


class TakeBackupBody(Body):
    """full: also where an incremental one could be had. freeze: whether the guest's file systems are to stand still for the instant
    it is of. rate_mibps: how fast the guest's disks are read, 0: no limit. compress: by zstd. encrypt: its files are, by `key` (a
    name or an id; empty: the only one there is); not together with compress."""

    pool: Name
    full: bool = False
    freeze: Freeze = Freeze.AUTO
    rate_mibps: RateMibps = 0
    compress: bool = False
    description: Annotated[str, msgspec.Meta(max_length=256)] = ""
    encrypt: bool = False
    key: KeyWord = ""


class Shown(msgspec.Struct):
    """progress: of one that is being taken, as its node says right now. reads: of its files, the newest (docs/backup-files.md)."""

    backup: VmBackup
    progress: Progress | None = None
    reads: list[BackupRead] = []


class Backups(msgspec.Struct):
    """The oldest first. exists: whether there is such a VM still. newest: the newest that can be recovered from. failure: the
    latest that came to nothing, while none was taken since. schedule: where it is backed up by itself."""

    vm: str
    exists: bool
    items: list[Shown]
    newest: str = ""
    failure: BackupFailure | None = None
    schedule: ShownPlan | None = None


class BackupAccepted(Accepted):
    """backup: its name; empty where the views do not show it yet."""

    backup: str = ""


def shown(gateway: Gateway, one: VmBackup) -> Shown:
    if one.state != "taking":
        return Shown(one)
    return Shown(one, progress(gateway.beats.copies(), one.vm, BACKUP, gateway.clock.now_us(), one.id))


async def find(gateway: Gateway, who: Principal, vm: str, id: str) -> tuple[VmBackup, str]:
    """(It, its VM's project). Raises Problem 404."""
    project = await gateway.catalogue(who, vm)
    found = gateway.model.backups.find(vm, id)
    if found is None:
        raise Problem(404, "BACKUP_UNKNOWN", f"{vm} has no backup {id}", remedy=f"see asvctl backup ls {vm}")
    return found, project


async def _tell(request: Asked, gateway: Gateway, vm: str, project: str, kind: str, command: Command) -> Accepted:
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"backups-{vm}", command, project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, kind, vm, project, "nothing had to change")
    return accepted


@get("/{vm:str}/backups", action=Action.READ, summary="List a VM's backups")
async def list_backups(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Backups:
    await gateway.catalogue(request.user, vm)
    view = gateway.model.backups
    newest = view.newest(vm)
    return Backups(
        vm, vm in gateway.model.vms.all, [shown(gateway, one) for one in view.of(vm)], newest.id if newest else "",
        view.failures.get(vm), plan_of(gateway, vm) if vm in gateway.model.plans.all else None,
    )  # fmt: skip


@get("/{vm:str}/backups/{backup:str}", action=Action.READ, summary="Show a backup")
async def show_backup(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], backup: FromPath[str]) -> Shown:
    found, _ = await find(gateway, request.user, vm, backup)
    reads = [one for one in gateway.model.backups.reads_of(vm) if one.backup == backup]
    return msgspec.structs.replace(shown(gateway, found), reads=reads)


@post("/{vm:str}/backups", action=Action.OPERATE, status_code=202, summary="Take a backup")
async def take_backup(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[TakeBackupBody]
) -> BackupAccepted:
    """Of all disks at one instant, while the VM runs or at rest. Incremental where that can be had."""
    found = await gateway.vm(request.user, vm)
    command = TakeBackup(
        vm=vm, pool=data.pool, full=data.full, freeze=data.freeze, rate_mibps=data.rate_mibps, compress=data.compress,
        description=data.description, encrypt=data.encrypt, key=data.key,
    )  # fmt: skip
    accepted = await _tell(request, gateway, vm, found.project, "take-backup", command)
    name = next((one.id for one in gateway.model.backups.of(vm) if one.task == accepted.task), "")
    return BackupAccepted(**msgspec.structs.asdict(accepted), backup=name)


@delete("/{vm:str}/backups/{backup:str}", action=Action.OPERATE, status_code=202, summary="Delete a backup")
async def delete_backup(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], backup: FromPath[str]
) -> Accepted:
    """Those that stand on it are written anew first. Refused while a recovery needs it."""
    _, project = await find(gateway, request.user, vm, backup)
    return await _tell(request, gateway, vm, project, "delete-backup", DeleteBackup(vm=vm, backup=backup))


@post("/{vm:str}/backups/{backup:str}/verify", action=Action.OPERATE, status_code=202, summary="Read a backup again")
async def verify_backup(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], backup: FromPath[str]
) -> Accepted:
    """It and all that it stands on, and compare with the digests that were noted when it was taken."""
    _, project = await find(gateway, request.user, vm, backup)
    return await _tell(request, gateway, vm, project, "verify-backup", VerifyBackup(vm=vm, backup=backup))


@post("/{vm:str}/backups/{backup:str}/cancel", action=Action.OPERATE, status_code=202, summary="Give a backup up")
async def cancel_backup(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], backup: FromPath[str]
) -> Accepted:
    """While it is being taken: what there is of it is removed. While it is being verified: it stays, and is not read on."""
    _, project = await find(gateway, request.user, vm, backup)
    return await _tell(request, gateway, vm, project, "cancel-backup", CancelBackup(vm=vm, backup=backup))


HANDLERS = [list_backups, show_backup, take_backup, delete_backup, verify_backup, cancel_backup]
