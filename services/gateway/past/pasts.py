"""Past states as they are asked for: found, made, and the latest kept at hand, as who looks at one often looks at its
neighbours."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Recorded
from services.gateway import snapshot
from services.gateway.model import EVENTS
from services.gateway.past import kept
from services.gateway.past.model import PastModel
from services.gateway.past.moment import BadMoment, Moment, position_of
from services.gateway.past.source import Readable
from services.gateway.past.store import KeptStore

PASTS_MAX = 4
"""states at hand: of 20,000 VMs each takes as much memory as the views of now"""
STRETCHES_MAX = 2
"""stretches of the log between two kept snapshots, read and decoded"""
TAIL_MAX = 400_000
"""events that are folded for one answer; more are too many, while kept snapshots are still being made"""


@dataclass(slots=True)
class Stretch:
    """parts: of the kept snapshot at `base` (none at 0); tail: the events behind it, as far as they were read (`until`)."""

    base: int
    parts: Mapping[str, bytes]
    until: int
    tail: list[tuple[Recorded, Any]] = field(default_factory=list)

    def up_to(self, position: int) -> list[tuple[Recorded, Any]]:
        """A list of its own, as the stretch grows. Positions have no gap, but events of unknown types are left out."""
        if position >= self.until:
            return self.tail[:]
        low, high = 0, len(self.tail)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.tail[middle][0].position <= position else (low, middle)
        return self.tail[:low]


class Pasts:
    """`at(moment)` gives the state; one is made at a time. Of the store nothing is asked but what is there."""

    def __init__(self, log: Readable, store: KeptStore, tail_max: int = TAIL_MAX) -> None:
        self.log, self._store, self._tail_max = log, store, tail_max
        self._models: OrderedDict[int, PastModel] = OrderedDict()
        self._stretches: OrderedDict[int, Stretch] = OrderedDict()
        self._making = asyncio.Lock()

    async def at(self, moment: Moment) -> PastModel:
        """Raises BadMoment, LogError."""
        position, at_us = await position_of(moment, self.log)
        async with self._making:
            model = self._models.pop(position, None) or await self._made(position, at_us)
            self._models[position] = model
            while len(self._models) > PASTS_MAX:
                self._models.popitem(last=False)
        return model

    async def _made(self, position: int, at_us: int) -> PastModel:
        stretch = await self._stretch(position)
        if position > stretch.until:
            async for chunk in self.log.replay(stretch.until, position):
                pairs = zip(chunk, EVENTS.events(chunk), strict=True)
                stretch.tail += [(recorded, event) for recorded, event in pairs if event is not None]
            stretch.until = position
        return PastModel(position, at_us, stretch.parts, stretch.up_to(position))

    async def _stretch(self, position: int) -> Stretch:
        """The one at hand that reaches from a kept snapshot to there, or a new one."""
        found = await self._store.nearest(position, snapshot.schema()) if self._base(position) is None else None
        base = self._base(position)
        if base is None:
            base = found.position if found is not None else 0
            parts = kept.parts_of(found) if found is not None else {}
            if position - base > self._tail_max:
                said = f"the state at {position} is {position - base} events from the nearest that was kept; they are being made"
                raise BadMoment(said, "ask again in some minutes, or have them made: python -m services.gateway.past")
            self._stretches.setdefault(base, Stretch(base, parts, base))
        self._stretches.move_to_end(base)
        while len(self._stretches) > STRETCHES_MAX:
            self._stretches.popitem(last=False)
        return self._stretches[base]

    def _base(self, position: int) -> int | None:
        """Of a stretch at hand that is near enough."""
        near = [base for base in self._stretches if base <= position < base + kept.EVERY]
        return max(near, default=None)
