"""Where the VMs of a node would go: each is placed in turn, beside what the earlier ones would take; those of a `together` group go
where its first goes. Of the views nothing stays changed."""

from __future__ import annotations

from collections.abc import Sequence

from proto.drain import AdvanceDrain, DrainMove, DrainPlan, DrainUnfit
from services.compute.choosing import choose_move
from services.compute.devices import MOVE_AT_REST, rooted
from services.compute.fleet import HINT_US_MAX, Hint
from services.compute.reasons import explain
from services.compute.shares import promise_to, share_of
from services.compute.views import Views


def preflight(views: Views, node: str, now_us: int, only: Sequence[str] = ()) -> DrainPlan | None:
    """The largest first, for they have the fewest places. only: these of its VMs; none: all. None: there is no such node."""
    if node not in views.nodes:
        return None
    here = [vm for vm in views.nodes[node].vms if vm in views.vms and (not only or vm in only)]
    going = [vm for vm in here if views.at.get(vm) == node and vm not in views.moves]
    going.sort(key=lambda vm: (-views.vms[vm].shape.memory_mib, vm))
    moves: list[DrainMove] = []
    unfit: list[DrainUnfit] = []
    groups: dict[str, str] = {}
    elsewhere = {share.together for name, view in views.nodes.items() if name != node for share in view.vms.values()}
    before = {vm: views.hints.get(vm) for vm in going}
    try:
        for vm in going:
            group = views.vms[vm].allotment.together
            if said := rooted(views.vms[vm].disks):
                unfit.append(DrainUnfit(vm=vm, sentence=said, remedy=MOVE_AT_REST))
                continue
            choice, ways = choose_move(views, vm, now_us, node, groups.get(group, ""), group not in elsewhere)
            if choice is None or not choice.candidates:
                sentence, remedy = explain(choice) if choice else ("it is not defined", "")
                unfit.append(DrainUnfit(vm=vm, sentence=sentence, remedy=remedy))
                continue
            to, wanted = choice.candidates[0].node, views.vms[vm]
            copy_mib = next((way.copy_mib for way in ways if way.node == to), 0)
            moves.append(DrainMove(vm=vm, to=to, copy_mib=copy_mib))
            if group:
                groups[group] = to
            views.fleet.hinted(vm, Hint(to, share_of(wanted), promise_to(wanted), now_us + HINT_US_MAX))
    finally:
        for vm, hint in before.items():
            views.fleet.hinted(vm, hint)
    waits = tuple(sorted(vm for vm in here if views.at.get(vm) != node and not _leaving(views, vm, node)))
    return DrainPlan(moves=tuple(moves), unfit=tuple(unfit), waits=waits)


def advance(command: AdvanceDrain, views: Views) -> AdvanceDrain:
    """With what the views know of the node's VMs."""
    view = views.nodes.get(command.node)
    here = tuple(sorted(view.vms)) if view else ()
    moving = tuple(sorted(vm for vm, move in views.moves.items() if move.node == command.node))
    ready = tuple(vm for vm in here if views.at.get(vm) == command.node and vm not in views.moves)
    return AdvanceDrain(node=command.node, now_us=command.now_us, here=here, ready=ready, moving=moving)


def _leaving(views: Views, vm: str, node: str) -> bool:
    return vm in views.moves and views.moves[vm].node == node
