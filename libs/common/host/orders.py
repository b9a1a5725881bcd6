"""The orders a service has out: each a function of a stream's state, repeated until its agent has heard it."""

from __future__ import annotations

from collections.abc import Sequence
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


type _Key = tuple[str, NodeId]


class OrderBook:
    """At most one order per stream and node: the newest."""

    def __init__(self) -> None:
        self.incarnation = 1
        """of the log: every order names it"""
        self._entries: dict[_Key, _Entry] = {}
        self._nodes: dict[str, tuple[NodeId, ...]] = {}
        self._unheard: set[_Key] = set()
        self._next_us = 0
        """no unheard order is due before"""

    def update(
        self, stream: str, version: int, orders: Order | Sequence[Order] | None, correlation: str, trace: str
    ) -> None:
        """The stream is now at `version` and this is what its state wants told: to one node, or to each of several."""
        wanted = () if orders is None else (orders,) if isinstance(orders, Order) else tuple(orders)
        nodes = tuple(order.node for order in wanted)
        for node in self._nodes.pop(stream, ()):
            if node not in nodes:
                self._entries.pop((stream, node), None)
                self._unheard.discard((stream, node))
        if nodes:
            self._nodes[stream] = nodes
        for order in wanted:
            self._enter(stream, version, order, correlation, trace)

    def _enter(self, stream: str, version: int, order: Order, correlation: str, trace: str) -> None:
        message = order.message
        if hasattr(message, "correlation"):
            message = msgspec.structs.replace(message, correlation=correlation)
        if getattr(message, "incarnation", self.incarnation) != self.incarnation:
            message = msgspec.structs.replace(message, incarnation=self.incarnation)
        if trace and hasattr(message, "trace"):
            message = msgspec.structs.replace(message, trace=trace)
        self._entries[stream, order.node] = _Entry(order.node, version, encode(message), trace)
        self._unheard.add((stream, order.node))
        self._next_us = 0

    def due(self, now_us: int) -> list[SendOrder]:
        """Every order that is to be sent now, in the order of stream names; marks each for its next repetition."""
        if not self._unheard or now_us < self._next_us:
            return []
        out: list[SendOrder] = []
        for key in sorted(k for k in self._unheard if self._entries[k].next_us <= now_us):
            entry = self._entries[key]
            entry.next_us = now_us + entry.wait_us
            entry.wait_us = min(entry.wait_us * 2, REPEAT_MAX_US)
            out.append(SendOrder(key[0], entry.version, entry.node, entry.data, entry.trace))
        self._next_us = min(self._entries[key].next_us for key in self._unheard)
        return out

    def heard(self, stream: str, version: int, node: str) -> None:
        key = (stream, NodeId(node))
        entry = self._entries.get(key)
        if entry is not None and entry.version == version:
            self._unheard.discard(key)

    def again(self, node: NodeId) -> None:
        """That node's agent may know nothing any more: all its orders are unheard."""
        for key, entry in self._entries.items():
            if entry.node == node:
                entry.next_us, entry.wait_us = 0, REPEAT_US
                self._unheard.add(key)
                self._next_us = 0

    def unheard(self) -> int:
        return len(self._unheard)
