"""How an event is written while some of the cluster may still be of the release before.

A new version of an event is written only once the cluster was finalized at the protocol that brought it (`SINCE`); until then it
is written as the version before, which both releases read. The writer itself then goes on with what a reader will have of it, so
that its state in memory is what the log folds to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from libs.common.messages import Event, Recorded, encode, tag_of
from libs.common.protocol import OURS
from libs.common.registry import Downcast, Registry, TooNew

FINALIZED = "cluster_finalized"
"""the event that raises the finalized protocol; every host follows it, whatever its service"""


class _Finalized(msgspec.Struct):
    protocol: int


_finalized = msgspec.msgpack.Decoder(_Finalized).decode


class Writer:
    """`downcasts[(type, v)]` turns version v of an event into v - 1; protocol: what the cluster was finalized at."""

    def __init__(self, registry: Registry, downcasts: Mapping[tuple[str, int], Downcast] | None = None) -> None:
        self.protocol = 1
        self._registry = registry
        self._downcasts = dict(downcasts or {})

    def hear(self, recorded: Recorded) -> None:
        if recorded.type == FINALIZED:
            self.protocol = max(self.protocol, _finalized(recorded.data).protocol)

    def write(self, event: Event) -> tuple[Event, int, bytes]:
        """(the event as a reader will have it, its version, its bytes). Raises KeyError where a downcast is missing: a bug, as
        `proto.check` asks for each."""
        kind = type(event)
        if self.protocol >= kind.SINCE:
            return event, kind.VERSION, encode(event)
        tag = tag_of(kind)
        body: dict[str, Any] = msgspec.msgpack.decode(encode(event))
        data, v = encode(self._downcasts[(tag, kind.VERSION)](body)), kind.VERSION - 1
        return self._registry.event(Recorded(0, "", 0, tag, v, 0, data, b"")), v, data


def release_for(error: TooNew, finalized: int) -> str:
    """What it says, and which release can read it. finalized: the protocol that the cluster was finalized at."""
    if finalized > OURS.newest:
        spoken = f"The cluster was finalized at protocol {finalized}, this release speaks {OURS}"
        return f"{error}. {spoken}: run one that speaks {finalized}"
    return f"{error}. Run the release that wrote it, or a later one"
