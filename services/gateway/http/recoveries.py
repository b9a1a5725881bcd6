"""/v1/vms/VM/recover and /v1/recoveries: a VM made anew from a backup, how far that is, and how recoveries went."""

from __future__ import annotations

import msgspec
from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.log import LogError
from proto.backups import RateMibps
from proto.recovery import RecoverVm
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.copies import HOME, Progress, progress
from services.gateway.gateway import Gateway, name_is_free
from services.gateway.http.backups import BackupId
from services.gateway.http.bodies import Body, Label
from services.gateway.http.door import Asked, asker
from services.gateway.past.moment import AFTER_ALL_US, BadMoment, position_of, read
from services.gateway.problems import Problem, away
from services.gateway.protection import Report, report
from services.gateway.recovering import refused_start
from services.gateway.views.recoveries import Recovery


class RecoverBody(Body, rename={"as_": "as"}):
    """backup: which; or at: the newest that is not after that moment (a position, a time, how long ago, `now`); the newest of all
    where neither is said. A damaged one is refused, and the newest that is sound named. as: a name that is free; empty: the VM
    itself, which has to be stopped and named by `lose` where it is there. node: only there; pool: where its disks are to lie,
    empty: where they lay. isolated: none of its NICs has a link. rate_mibps: how fast the data of each
    disk comes home at most, 0: as the guest lets it."""

    backup: BackupId | None = None
    at: str = ""
    as_: Label = ""
    node: Label = ""
    pool: Label = ""
    start: bool = True
    isolated: bool = False
    rate_mibps: RateMibps = 0
    lose: Label = ""


class RecoveryAccepted(Accepted):
    """recovery: its id, `target`: what it makes; both empty where the views do not show it yet."""

    recovery: str = ""
    target: str = ""


class ShownRecovery(msgspec.Struct):
    """progress: of what is copied, as its node says right now."""

    recovery: Recovery
    progress: Progress | None = None


class Recoveries(msgspec.Struct):
    items: list[ShownRecovery]


@post("/{vm:str}/recover", action=Action.OPERATE, status_code=202, summary="Make a VM anew from a backup, and start it")
async def recover(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[RecoverBody | None] = None
) -> RecoveryAccepted:
    """It runs on the backup at once, and its data comes home meanwhile. Also of a VM that was deleted."""
    project = await gateway.catalogue(request.user, vm)
    body = data or RecoverBody()
    if body.backup and body.at:
        raise Problem(400, "BAD_BODY", "`backup` and `at` each say which backup", "give one of them, or none", field="at")
    target = body.as_ or vm
    name_is_free(gateway, target, project)
    command = RecoverVm(
        vm=vm, target=target, backup=body.backup or "", at_us=await instant(gateway, body.at), node=body.node, pool=body.pool,
        start=body.start, isolated=body.isolated, lose=body.lose, rate_mibps=body.rate_mibps,
    )  # fmt: skip
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"backups-{vm}", command, project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "recover", target, project, "nothing had to change")
    made = next((one for one in reversed(gateway.model.recoveries.all.values()) if one.task == accepted.task), None)
    answer = RecoveryAccepted(**msgspec.structs.asdict(accepted))
    if made is not None:
        answer.recovery, answer.target = made.id, made.target
    return answer


async def instant(gateway: Gateway, text: str) -> int:
    """Microseconds since the epoch; 0: the newest backup will do. Raises Problem 400, 503."""
    if not text:
        return 0
    try:
        moment = read(text, gateway.clock.now_us())
        if moment.at_us == AFTER_ALL_US:
            return 0
        return max(1, moment.at_us if moment.position < 0 else (await position_of(moment, gateway.log))[1])
    except BadMoment as bad:
        raise Problem(400, "BAD_MOMENT", str(bad), bad.remedy, field="at") from bad
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error


@get("", action=Action.READ, summary="List recoveries")
async def list_recoveries(request: Asked, gateway: NamedDependency[Gateway]) -> Recoveries:
    """Of VMs of the token's projects, the oldest first; the newest thousand are kept."""
    every = gateway.model.recoveries.all.values()
    return Recoveries([await shown(gateway, one) for one in every if request.user.sees(one.project)])


@get("/{recovery:str}", action=Action.READ, summary="Show a recovery")
async def show_recovery(request: Asked, gateway: NamedDependency[Gateway], recovery: FromPath[str]) -> ShownRecovery:
    """By its id (`r1-7`), with the name of its source where several VMs have one of that id (`web-1.r1-7`)."""
    found = [one for one in gateway.model.recoveries.find(recovery) if request.user.sees(one.project)]
    if not found:
        said = f"there is no recovery {recovery} that this token may see"
        raise Problem(404, "RECOVERY_UNKNOWN", said, "see asvctl recovery ls; the newest thousand are kept")
    if len(found) > 1:
        names = ", ".join(f"{one.source}.{one.id}" for one in found)
        raise Problem(409, "AMBIGUOUS", f"{recovery} is the id of {len(found)} recoveries", f"name one: {names}")
    return await shown(gateway, found[0])


@get("/report", action=Action.READ, summary="How VMs are protected, and how their last recoveries went")
async def show_report(request: Asked, gateway: NamedDependency[Gateway]) -> Report:
    """Every VM, and every one that was deleted and has backups."""
    now_us = gateway.past.at_us if gateway.past is not None else gateway.clock.now_us()
    recoveries = [(await shown(gateway, one)).recovery for one in gateway.model.recoveries.all.values()]
    return report(gateway.model, recoveries, request.user.sees, now_us)


def recovering(one: Recovery | None) -> str:
    """Of a VM whose disks stand on a backup."""
    if one is None:
        return ""
    return f"from {one.backup} of {one.source} ({one.id}): part of its data is in the backup only, and comes home while it runs"


async def shown(gateway: Gateway, one: Recovery) -> ShownRecovery:
    """As its node, and the log of what was refused, have it right now. Raises Problem 503."""
    try:
        if said := await refused_start(gateway.log, one):
            one = msgspec.structs.replace(one, state="waiting", sentence=said)
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    if not one.disks_us or one.independent_us or one.ended_us:
        return ShownRecovery(one)
    far = progress(gateway.beats.copies(), one.target, HOME, gateway.clock.now_us())
    if far is not None and one.state == "on-backup":
        one = msgspec.structs.replace(one, state="copying")
    return ShownRecovery(one, far)


routes = [Router("/v1/recoveries", route_handlers=[list_recoveries, show_recovery, show_report], tags=["Recovery"])]
