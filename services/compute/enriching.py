"""What compute's views add to a command before it is decided: to one about a drain here, to all others in views.py."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from proto.drain import AdvanceDrain, DrainNode
from services.compute import views as of_views
from services.compute.preflight import advance, preflight
from services.compute.views import Views


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only compute's own views may say, whoever sent the command."""
    match command:
        case DrainNode():
            return replace(command, plan=preflight(views, command.node, now_us))
        case AdvanceDrain():
            return advance(command, views)
        case _:
            return of_views.enrich(command, views, now_us)
