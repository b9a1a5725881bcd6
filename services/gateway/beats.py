"""Which nodes are alive, from their heartbeats. Telemetry: heard, never stored, never more than a hint."""

from __future__ import annotations

import logging

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.clock import Clock
from proto.node import Beat

_log = logging.getLogger(__name__)

ONLINE_S = 5.0
"""A node that was silent for longer is shown as offline: five beats."""
NODES_MAX = 10_000

_decode = msgspec.msgpack.Decoder(Beat).decode


class Beats:
    """The latest beat of each node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[str, tuple[float, Beat]] = {}

    async def open(self, bus: Bus) -> None:
        await bus.serve("tel.*.beat", self._hear)

    async def _hear(self, message: Incoming) -> None:
        """A beat counts for the node whose subject it came on; the server lets nobody else publish there."""
        node = message.subject.split(".")[1]
        if len(self._heard) < NODES_MAX or node in self._heard:
            try:
                self._heard[node] = (self._clock.monotonic(), _decode(message.data))
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                _log.debug("a beat of %s is not readable: %s", node, error)

    def online(self, node: str) -> bool:
        at, _ = self._heard.get(node, (-ONLINE_S * 2, None))
        return self._clock.monotonic() - at <= ONLINE_S
