"""What compute's views add to a command just before it is decided."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from proto.balance import ApplyBalance, LookAtBalance
from proto.cluster import FinalizeCluster, SetPlacement
from proto.compute import (
    DefineVm,
    DeleteVm,
    LoseVm,
    NoteDevices,
    NoteMemory,
    Placement,
    PrepareRecovery,
    ProtectVm,
    RemoveNode,
    ReportNode,
    RestartVm,
    SetAllotment,
    StartVm,
)
from proto.drain import AdvanceDrain, DrainNode
from proto.growth import ResizeVm
from proto.migration import MigrateVm, Way
from proto.plan import MakePlan, ReviewPlan
from services.compute import choosing, limits
from services.compute.balance import wiring
from services.compute.choosing import Quest
from services.compute.preflight import advance, preflight
from services.compute.reach import guardable, lockers, protected
from services.compute.views import Views


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only compute's own views may say, whoever sent the command."""
    match command:
        case DrainNode():
            return replace(command, plan=preflight(views, command.node, now_us))
        case AdvanceDrain():
            return advance(command, views)
        case DefineVm():
            return replace(command, known=choosing.known(views, command))
        case LookAtBalance() | ApplyBalance():
            return wiring.enrich(command, views.balance, lambda node: views.online(node, now_us), now_us)
        case StartVm():
            choice: Placement | None = choosing.choose(views, command.vm, now_us, Quest(command.node))
            choosing.expect(views, command.vm, choice, now_us)
            return replace(command, choice=choice, unheard=views.unheard(command.incarnation))
        case MigrateVm():
            here = views.at.get(command.vm)
            choice = None
            ways: tuple[Way, ...] = ()
            if here:
                choice, ways = choosing.choose_move(views, command.vm, now_us, here, command.node, command.with_group)
            return replace(command, choice=choice, unheard=views.unheard(command.incarnation), ways=ways)
        case DeleteVm() | PrepareRecovery():
            unheard = views.unheard(command.incarnation)
            return command if command.unheard == unheard else replace(command, unheard=unheard)
        case RestartVm():
            restart = choosing.restart if not command.drill else choosing.drill
            choice = restart(views, command, now_us)
            choosing.expect(views, command.vm, choice, now_us)
            return replace(command, choice=choice, unheard=views.unheard(command.incarnation))
        case NoteMemory(granted=False):
            return replace(command, choice=_next_choice(views, command.vm, command.generation, now_us))
        case LoseVm() if command.vm not in views.at:
            return replace(command, choice=_next_choice(views, command.vm, 0, now_us))
        case NoteDevices(granted=True):
            return replace(command, protected=protected(command.disks, views.can(command.node), views.reports()))
        case ProtectVm():
            return replace(command, shared=guardable(views.can(command.node), lockers(views.reports())))
        case ReportNode() if command.finalized != views.finalized:
            return replace(command, finalized=views.finalized)
        case FinalizeCluster():
            reports = {name: node.reported for name, node in views.nodes.items()}
            return replace(command, nodes={n: r.capabilities.protocol for n, r in reports.items() if r is not None})
        case SetPlacement():
            return replace(command, uses=choosing.uses(views))
        case ResizeVm():
            cells = choosing.cells_for(views, command.vm)
            return replace(command, vcpus_free=choosing.vcpus_free(views, command.vm, now_us), cells=cells)
        case MakePlan() | ReviewPlan():
            return views.plans.filled(command)
        case SetAllotment():
            return views.plans.filled(limits.allotted(command, views.nodes, views.at, views.rules))
        case RemoveNode():
            node = views.nodes.get(command.node)
            vms = tuple(sorted(node.vms)) if node else ()
            return replace(command, vms=vms, online=views.online(command.node, now_us))
        case _:
            return command


def _next_choice(views: Views, vm: str, generation: int, now_us: int) -> Placement | None:
    """What was known at the choice is not so: choose afresh, without the nodes already tried. None, and with it the recorded
    candidates, where the start asked for one node only or is not the latest. generation: of the start; 0: whichever it is."""
    start = views.starts.get(vm)
    if start is None or start.generation != (generation or start.generation):
        return None
    if start.one:
        return None
    quest = Quest(tried=(*start.tried, start.node), failover=start.failover)
    if start.attempt:
        return choosing.restarted(views, vm, now_us, quest)
    return choosing.choose(views, vm, now_us, quest)
