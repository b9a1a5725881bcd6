"""What is set for pools, as the events tell. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Recorded
from proto.pools import PoolRules, PoolSet


@dataclass(slots=True)
class PoolsView:
    rules: dict[str, PoolRules] = field(default_factory=dict)
    """by the pool's name"""

    def apply(self, recorded: Recorded, event: Any) -> None:
        if isinstance(event, PoolSet):
            self.rules[event.pool] = event.rules

    def of(self, pool: str) -> PoolRules:
        return self.rules.get(pool, PoolRules())
