"""All that ha knows of others: a part for each of its subjects, which folds what concerns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from libs.common.host import hearing
from libs.common.messages import Recorded
from services.ha.fencing.views import FenceViews
from services.ha.guard_views import GuardViews
from services.ha.node_views import NodeViews
from services.ha.reserve_views import ReserveViews
from services.ha.verdict_views import VitalsViews


@dataclass(slots=True)
class Views:
    nodes: NodeViews = field(default_factory=NodeViews)
    guards: GuardViews = field(default_factory=GuardViews)
    vitals: VitalsViews = field(default_factory=VitalsViews)
    fences: FenceViews = field(default_factory=FenceViews)
    reserve: ReserveViews = field(default_factory=ReserveViews)

    HEARS: ClassVar[hearing.Heard] = {}
    PARTS: ClassVar[tuple[str, ...]] = ("nodes", "guards", "vitals", "fences", "reserve")

    def apply(self, recorded: Recorded, event: Any) -> None:
        self.guards.anew()
        hearing.tell(self, recorded, event)
