"""All that ha knows of others: a part for each of its subjects, which folds what concerns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Recorded
from services.ha.guard_views import GuardViews
from services.ha.verdict_views import VitalsViews


@dataclass(slots=True)
class Views:
    guards: GuardViews = field(default_factory=GuardViews)
    vitals: VitalsViews = field(default_factory=VitalsViews)

    def apply(self, recorded: Recorded, event: Any) -> None:
        self.guards.apply(recorded, event)
        self.vitals.apply(recorded, event)
