"""How each node's memory is doing, from its memory beats. Telemetry: heard, never stored, never more than a hint."""

from __future__ import annotations

import logging

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.clock import Clock
from proto.node import MemoryBeat

_log = logging.getLogger(__name__)

FRESH_S = 5.0
"""older ones are not shown: five beats"""
NODES_MAX = 10_000

_decode = msgspec.msgpack.Decoder(MemoryBeat).decode


class MemoryBeats:
    """The latest memory beat of each node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[str, tuple[float, MemoryBeat]] = {}

    async def open(self, bus: Bus) -> None:
        await bus.serve("tel.*.memory", self._hear)

    async def _hear(self, message: Incoming) -> None:
        node = message.subject.split(".")[1]
        if len(self._heard) < NODES_MAX or node in self._heard:
            try:
                self._heard[node] = (self._clock.monotonic(), _decode(message.data))
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                _log.debug("a memory beat of %s is not readable: %s", node, error)

    def fresh(self, node: str) -> MemoryBeat | None:
        """None: nothing was heard lately."""
        at, beat = self._heard.get(node, (0.0, None))
        return beat if self._clock.monotonic() - at <= FRESH_S else None
