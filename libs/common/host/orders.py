"""The orders a service has out: each a function of a stream's state, repeated until its agent has heard it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from libs.common.host.effects import SendOrder
from libs.common.host.service import Order
from libs.common.messages import NodeId, encode

REPEAT_US = 1_000_000
"""first repetition of an unheard order; doubled each time"""
REPEAT_MAX_US = 10_000_000


@dataclass(slots=True)
class _Entry:
    node: NodeId
    version: int
    data: bytes
    trace: str = ""
    next_us: int = 0
    wait_us: int = REPEAT_US


class OrderBook:
    """At most one order per stream: the newest."""

    def __init__(self) -> None:
        self.incarnation = 1
        """of the log: every order names it"""
        self._entries: dict[str, _Entry] = {}
        self._unheard: set[str] = set()
        self._next_us = 0
        """no unheard order is due before"""

    def update(self, stream: str, version: int, order: Order | None, correlation: str, trace: str) -> None:
        """The stream is now at `version` and this is what its state wants told."""
        if order is None:
            self._entries.pop(stream, None)
            self._unheard.discard(stream)
            return
        message = order.message
        if hasattr(message, "correlation"):
            message = msgspec.structs.replace(message, correlation=correlation)
        if getattr(message, "incarnation", self.incarnation) != self.incarnation:
            message = msgspec.structs.replace(message, incarnation=self.incarnation)
        if trace and hasattr(message, "trace"):
            message = msgspec.structs.replace(message, trace=trace)
        self._entries[stream] = _Entry(order.node, version, encode(message), trace)
        self._unheard.add(stream)
        self._next_us = 0

    def due(self, now_us: int) -> list[SendOrder]:
        """Every order that is to be sent now, in the order of stream names; marks each for its next repetition."""
        if not self._unheard or now_us < self._next_us:
            return []
        out: list[SendOrder] = []
        for stream in sorted(s for s in self._unheard if self._entries[s].next_us <= now_us):
            entry = self._entries[stream]
            entry.next_us = now_us + entry.wait_us
            entry.wait_us = min(entry.wait_us * 2, REPEAT_MAX_US)
            out.append(SendOrder(stream, entry.version, entry.node, entry.data, entry.trace))
        self._next_us = min(self._entries[s].next_us for s in self._unheard)
        return out

    def heard(self, stream: str, version: int) -> None:
        entry = self._entries.get(stream)
        if entry is not None and entry.version == version:
            self._unheard.discard(stream)

    def again(self, node: NodeId) -> None:
        """That node's agent may know nothing any more: all its orders are unheard."""
        for stream, entry in self._entries.items():
            if entry.node == node:
                entry.next_us, entry.wait_us = 0, REPEAT_US
                self._unheard.add(stream)
                self._next_us = 0

    def unheard(self) -> int:
        return len(self._unheard)
