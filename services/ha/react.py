"""What ha makes of events and of telemetry, and what it adds to a command just before it is decided: each subject its own part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.messages import Command, Recorded
from proto.lease import SuspectNode
from proto.reserve import WeighReserve
from proto.vitals import JudgeVm
from services.ha import guard_react, node_views, verdict_views
from services.ha.fencing import views as fence_views
from services.ha.fencing.model import FENCE
from services.ha.guard import GUARD
from services.ha.node_views import Heard
from services.ha.views import Views


def react(event: Any, recorded: Recorded, views: Views) -> Sequence[Command]:
    return [
        *node_views.react(event),
        *fence_views.react(event, recorded, views.fences),
        *guard_react.react(event, recorded, views.guards),
        *verdict_views.react(event, recorded),
    ]


def enrich(command: Any, views: Views, now_us: int) -> Any:
    if isinstance(command, JudgeVm):
        return verdict_views.enrich(command, views.vitals, now_us)
    if isinstance(command, SuspectNode):
        return replace(command, planned=views.nodes.planned(command.node, views.guards.busy()))
    if isinstance(command, FENCE.commands):
        lease = views.nodes.leases.get(command.node, (1, ""))
        return fence_views.enrich(command, views.fences, now_us, lease, shown(command.node, views, now_us))
    if isinstance(command, GUARD.commands):
        return guard_react.enrich(command, views.guards, now_us)
    if isinstance(command, WeighReserve):
        return replace(command, plan=views.reserve.weighed(views.guards))
    return node_views.enrich(command, views.nodes, now_us)


def look(now_us: int, views: Views) -> Iterator[Command]:
    yield from verdict_views.look(now_us, views.vitals)
    yield from fence_views.look(now_us, views.fences, lambda node: shown(node, views, now_us))
    yield from guard_react.look(now_us, views.guards)
    yield from views.reserve.look(now_us, views.guards)


def shown(node: str, views: Views, now_us: int) -> fence_views.Shown:
    nodes = views.nodes
    heard = nodes.heard.get(node, Heard())
    asked_us, watched = max(heard.control_us, heard.reached_us), nodes.watched(node, now_us)
    return fence_views.Shown(asked_us, nodes.moved_us(node), heard.boot_id, watched, nodes.lived_us(node))


def hear(subject: str, data: bytes, now_us: int, views: Views) -> None:
    match subject.rpartition(".")[2]:
        case "leases":
            views.nodes.hear(subject, data, now_us)
        case "vitals":
            views.vitals.hear(subject, data, now_us)
        case "beat":
            views.fences.hear(subject, data, now_us)
