"""Which nodes are alive and how their memory is doing, from what their agents say once a second. Telemetry: heard, never stored,
never more than a hint."""

from __future__ import annotations

import logging

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.clock import Clock
from proto.node import Beat, CopiesBeat, CopyNow, MemoryBeat
from proto.pools import SILENCE_US_MAX, PoolNow, PoolsBeat

_log = logging.getLogger(__name__)

FRESH_S = 5.0
"""A node that was silent for longer is shown as offline, and what it said is not shown: five beats."""
POOLS_FRESH_S = SILENCE_US_MAX / 1e6
NODES_MAX = 10_000


class Latest[T]:
    """The latest word of each node on one kind of subject."""

    def __init__(self, clock: Clock, kind: type[T], fresh_s: float = FRESH_S) -> None:
        self._clock = clock
        self._fresh_s = fresh_s
        self._kind = kind
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._heard: dict[str, tuple[float, T]] = {}

    async def hear(self, message: Incoming) -> None:
        """It counts for the node whose subject it came on; the server lets nobody else publish there."""
        node = message.subject.split(".")[1]
        if len(self._heard) < NODES_MAX or node in self._heard:
            try:
                self._heard[node] = (self._clock.monotonic(), self._decode(message.data))
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                _log.debug("a %s of %s is not readable: %s", self._kind.__name__, node, error)

    def fresh(self, node: str) -> T | None:
        """None: nothing was heard lately."""
        at, said = self._heard.get(node, (0.0, None))
        return said if self._clock.monotonic() - at <= self._fresh_s else None

    def all_fresh(self) -> list[T]:
        since = self._clock.monotonic() - self._fresh_s
        return [said for at, said in self._heard.values() if at >= since]


class Beats:
    """The latest beats of each node."""

    def __init__(self, clock: Clock) -> None:
        self._alive = Latest(clock, Beat)
        self._memory = Latest(clock, MemoryBeat)
        self._pools = Latest(clock, PoolsBeat, POOLS_FRESH_S)
        self._copies = Latest(clock, CopiesBeat)

    async def open(self, bus: Bus) -> None:
        await bus.serve("tel.*.beat", self._alive.hear)
        await bus.serve("tel.*.memory", self._memory.hear)
        await bus.serve("tel.*.pools", self._pools.hear)
        await bus.serve("tel.*.copies", self._copies.hear)

    def online(self, node: str) -> bool:
        return self._alive.fresh(node) is not None

    def memory(self, node: str) -> MemoryBeat | None:
        """None: nothing was heard lately."""
        return self._memory.fresh(node)

    def pools(self, node: str) -> tuple[PoolNow, ...]:
        """What it told lately of its pools."""
        told = self._pools.fresh(node)
        return told.pools if told is not None else ()

    def copies(self) -> tuple[CopyNow, ...]:
        """That go on, of all nodes."""
        return tuple(copy for told in self._copies.all_fresh() for copy in told.copies)
