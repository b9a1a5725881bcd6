"""A service's own streams in memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import msgspec

from libs.common.decider import Decider
from libs.common.host.jobs import Slot
from libs.common.messages import Recorded, decode_meta, encode
from libs.common.registry import TooNew


class Slots(dict[str, Slot]):
    """Stream -> slot. `of` gives one to a stream that has none yet, in its decider's initial state. changes: how often any of them
    took an event."""

    def __init__(self, deciders: Iterable[Decider[Any, Any, Any]]) -> None:
        super().__init__()
        self.changes = 0
        self._by_kind = MappingProxyType({d.kind: d for d in deciders})

    def of(self, stream: str) -> Slot:
        slot = self.get(stream)
        if slot is None:
            slot = self[stream] = Slot(self._by_kind[stream.partition("-")[0]].initial)
        return slot

    def fold(self, recorded: Recorded, event: Any) -> None:
        """An own stream's event from the log. One that cannot be taken yet is `missed`, and to be read once the append is settled.
        Raises TooNew for None: an owner must not pass over what it does not know."""
        decider = self._by_kind.get(recorded.stream.partition("-")[0])
        if decider is None:
            return
        slot = self.of(recorded.stream)
        if slot.busy or recorded.version != slot.version + 1:
            slot.missed = max(slot.missed, recorded.version)
            return
        if event is None:
            raise TooNew(recorded, 0)
        meta = decode_meta(recorded.meta)
        slot.state = decider.evolve(slot.state, event)
        self.changes += 1
        if slot.version == 0:
            slot.project, slot.owner = meta.project, meta.owner
        slot.version, slot.correlation, slot.trace = recorded.version, meta.correlation, meta.trace

    @staticmethod
    def begin(slot: Slot) -> None:
        """Its first event was folded, whose `meta` it has: whose stream it is."""
        meta = decode_meta(slot.meta)
        slot.project, slot.owner = meta.project, meta.owner

    def settle(self) -> None:
        """A folding is over: of each stream, what its latest event belongs to."""
        for slot in self.values():
            if slot.meta:
                meta = decode_meta(slot.meta)
                slot.correlation, slot.trace, slot.meta = meta.correlation, meta.trace, b""
        self.changes += 1

    def own(self, stream: str) -> bool:
        """Whether a decider here has streams of that kind."""
        return stream.partition("-")[0] in self._by_kind

    def put(self, stream: str, slot: Slot) -> None:
        """What became of it by events of its own."""
        self[stream] = slot
        self.changes += 1

    def states(self) -> dict[str, Any]:
        return {stream: slot.state for stream, slot in self.items() if slot.version}

    def digestible(self) -> bytes:
        """All states as bytes: equal logs give equal bytes."""
        states = {stream: (s.version, msgspec.to_builtins(s.state)) for stream, s in self.items() if s.version}
        return encode(dict(sorted(states.items())))
