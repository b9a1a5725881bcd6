"""What ha makes of events, and what it adds to a command just before it is decided: each subject its own part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.messages import Command, Recorded
from proto.vitals import JudgeVm
from services.ha import guard_react, verdict_views
from services.ha.views import Views


def react(event: Any, recorded: Recorded, views: Views) -> Sequence[Command]:
    return [*guard_react.react(event, recorded, views.guards), *verdict_views.react(event, recorded)]


def enrich(command: Any, views: Views, now_us: int) -> Any:
    if isinstance(command, JudgeVm):
        return verdict_views.enrich(command, views.vitals, now_us)
    return guard_react.enrich(command, views.guards, now_us)
