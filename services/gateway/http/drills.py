"""/v1/vms/VM/drill, /v1/vms/VM/drill-plan and /v1/drills: whether a VM can be recovered, tried out."""

from __future__ import annotations

import msgspec
from litestar import Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common import cron
from libs.common.messages import Command
from proto.backup_plans import Cron
from proto.drills import DRILL_S, CancelDrill, Check, Drill, DrillPlan, DrillS, DrillVm, SetDrillPlan
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import Gateway
from services.gateway.http.backups import BackupId
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker
from services.gateway.views.drills import Drill as ShownDrill


class DrillBody(Body):
    """backup: which; none: the newest that is sound. check: a program in the guest and its arguments, which has to exit with 0;
    none: that the guest's agent answers is enough. It is recorded: no place for what is secret. agent: false: the guest has none,
    and that it runs on is enough. timeout_s: from its turn until it has passed."""

    backup: BackupId | None = None
    check: Check = ()
    timeout_s: DrillS = DRILL_S
    agent: bool = True


class DrillPlanBody(Body):
    """cron: when, `minute hour day-of-month month day-of-week` in UTC. The rest: as for a drill, of the newest sound backup."""

    cron: Cron
    check: Check = ()
    timeout_s: DrillS = DRILL_S
    agent: bool = True


class DrillAccepted(Accepted):
    """drill: its id; empty where the views do not show it yet."""

    drill: str = ""


class ShownDrillPlan(msgspec.Struct):
    """plan: none: it is drilled only when asked for. next_us: when it is next, 0: never."""

    vm: str
    plan: DrillPlanBody | None = None
    set_us: int = 0
    next_us: int = 0


class Drills(msgspec.Struct):
    """plans: of the VMs that there are."""

    items: list[ShownDrill]
    plans: list[ShownDrillPlan]


@post("/{vm:str}/drill", action=Action.OPERATE, status_code=202, summary="Try out whether a VM can be recovered")
async def drill(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[DrillBody | None] = None
) -> DrillAccepted:
    """A VM is made of the backup under another name and without a network, started, checked from inside, and removed. Its task
    ends with the result."""
    project = await gateway.catalogue(request.user, vm)
    body = data or DrillBody()
    wish = Drill(check=body.check, timeout_s=body.timeout_s, agent=body.agent)
    command = DrillVm(vm=vm, backup=body.backup or "", drill=wish)
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"backups-{vm}", command, project)
    answer = DrillAccepted(**msgspec.structs.asdict(accepted))
    found = (one.id for one in reversed(gateway.model.drills.all.get(vm, [])) if one.task == accepted.task)
    answer.drill = next(found, "")
    return answer


@delete("/{vm:str}/drill", action=Action.OPERATE, status_code=202, summary="Give a VM's recovery drill up")
async def cancel_drill(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    """What it made is removed."""
    project = await gateway.catalogue(request.user, vm)
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"backups-{vm}", CancelDrill(vm=vm), project)
    gateway.unchanged(accepted.task, "cancel-drill", vm, project, f"the drill of {vm} is over")
    return accepted


@get("/{vm:str}/drill-plan", action=Action.READ, summary="When a VM's recovery is drilled by itself")
async def show_drill_plan(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> ShownDrillPlan:
    await gateway.catalogue(request.user, vm)
    return plan_of(gateway, vm)


@put("/{vm:str}/drill-plan", action=Action.OPERATE, status_code=202, summary="Set when a VM's recovery is drilled by itself")
async def set_drill_plan(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[DrillPlanBody]
) -> Accepted:
    found = await gateway.vm(request.user, vm)
    wish = Drill(check=data.check, timeout_s=data.timeout_s, agent=data.agent)
    return await _ask(request, gateway, SetDrillPlan(vm=vm, plan=DrillPlan(cron=data.cron, drill=wish)), vm, found.project)


@delete("/{vm:str}/drill-plan", action=Action.OPERATE, status_code=202, summary="Drill a VM's recovery by itself no more")
async def delete_drill_plan(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    project = await gateway.catalogue(request.user, vm)
    return await _ask(request, gateway, SetDrillPlan(vm=vm), vm, project)


async def _ask(request: Asked, gateway: Gateway, command: Command, vm: str, project: str) -> Accepted:
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"backups-{vm}", command, project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "drill-plan", vm, project, f"the plan of {vm} was so already")
    return accepted


@get("", action=Action.READ, summary="List recovery drills")
async def list_drills(request: Asked, gateway: NamedDependency[Gateway]) -> Drills:
    """Of VMs of the token's projects, the oldest first; the newest sixteen of each VM are kept."""
    drills, sees = gateway.model.drills, request.user.sees
    found = sorted((one for one in drills.every() if sees(one.project)), key=lambda one: (one.asked_us, one.vm))
    plans = (vm for vm, planned in sorted(drills.plans.items()) if sees(planned.project) and vm in gateway.model.vms.all)
    return Drills(found, [plan_of(gateway, vm) for vm in plans])


def plan_of(gateway: Gateway, vm: str) -> ShownDrillPlan:
    found = gateway.model.drills.plans.get(vm)
    if found is None:
        return ShownDrillPlan(vm)
    plan, wish = found.plan, found.plan.drill
    next_us = cron.following(plan.cron, gateway.clock.now_us()) if vm in gateway.model.vms.all else 0
    body = DrillPlanBody(cron=plan.cron, check=wish.check, timeout_s=wish.timeout_s, agent=wish.agent)
    return ShownDrillPlan(vm, body, found.set_us, next_us)


HANDLERS = [drill, cancel_drill, show_drill_plan, set_drill_plan, delete_drill_plan]
routes = [Router("/v1/drills", route_handlers=[list_drills], tags=["Recovery"])]
