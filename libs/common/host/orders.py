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
    heard: bool = False
    next_us: int = 0
    wait_us: int = REPEAT_US


class OrderBook:
    """At most one order per stream: the newest."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def update(self, stream: str, version: int, order: Order | None, correlation: str, trace: str) -> None:
        """The stream is now at `version` and this is what its state wants told."""
        if order is None:
            self._entries.pop(stream, None)
            return
        message = order.message
        if hasattr(message, "correlation"):
            message = msgspec.structs.replace(message, correlation=correlation)
        if trace and hasattr(message, "trace"):
            message = msgspec.structs.replace(message, trace=trace)
        self._entries[stream] = _Entry(order.node, version, encode(message), trace)

    def due(self, now_us: int) -> list[SendOrder]:
        """Every order that is to be sent now, in the order of stream names; marks each for its next repetition."""
        out: list[SendOrder] = []
        for stream in sorted(s for s, e in self._entries.items() if not e.heard and e.next_us <= now_us):
            entry = self._entries[stream]
            entry.next_us = now_us + entry.wait_us
            entry.wait_us = min(entry.wait_us * 2, REPEAT_MAX_US)
            out.append(SendOrder(stream, entry.version, entry.node, entry.data, entry.trace))
        return out

    def heard(self, stream: str, version: int) -> None:
        entry = self._entries.get(stream)
        if entry is not None and entry.version == version:
            entry.heard = True

    def again(self, node: NodeId) -> None:
        """That node's agent may know nothing any more: all its orders are unheard."""
        for entry in self._entries.values():
            if entry.node == node:
                entry.heard, entry.next_us, entry.wait_us = False, 0, REPEAT_US

    def unheard(self) -> int:
        return sum(not e.heard for e in self._entries.values())
